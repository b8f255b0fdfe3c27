"""Datacenter choice: wish, nearest, residency, nobody live."""

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.router.choose import DatacenterView, choose_datacenter, reason_of

NEAR = DatacenterView("near", "a:1", 1.0, True)
FAR = DatacenterView("far", "b:1", 90.0, True)
DEAD = DatacenterView("dead", "c:1", 0.1, False)
ALL = [FAR, DEAD, NEAR]


def test_wish_then_nearest_live() -> None:
    assert choose_datacenter(ALL, ["dead", "far"], []) is FAR
    assert choose_datacenter(ALL, [], []) is NEAR
    assert choose_datacenter(ALL, ["near"], ["far"]) is FAR


def test_residency_without_a_live_datacenter_is_refused() -> None:
    with pytest.raises(DataPlaneError, match="dead"):
        choose_datacenter(ALL, [], ["dead"])


def test_a_choice_says_why() -> None:
    assert reason_of(FAR, ["dead", "far"]) == "far is wish number 2"
    assert reason_of(NEAR, ["dead"]) == "near is nearest, 1 ms away"
