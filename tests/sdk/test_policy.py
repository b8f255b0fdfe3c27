"""The policy: every rule, its reason, and its edge."""

from dataclasses import replace

import pytest
from prefill_cloud import Route, Situation, decide

LONG = Situation(prompt_tokens=20_000, local_prefix_tokens=0, routing_threshold_tokens=8_000)


@pytest.mark.parametrize(
    ("changes", "route", "reason"),
    [
        ({}, Route.CLOUD, "20000 uncached tokens, above the threshold of 8000"),
        ({"routing_threshold_tokens": 0}, Route.CLOUD, "tokens, and no threshold is known"),
        ({"prompt_tokens": 8_000}, Route.LOCAL, "at most the threshold of 8000"),
        ({"prompt_tokens": 8_001}, Route.CLOUD, "8001 uncached"),
        ({"local_prefix_tokens": 12_000}, Route.LOCAL, "8000 uncached"),
        ({"local_prefix_tokens": 30_000}, Route.LOCAL, "0 uncached"),
        ({"price_micros": 11, "max_price_micros": 10}, Route.LOCAL, "11 micros is above the cap"),
        ({"price_micros": 10, "max_price_micros": 10}, Route.CLOUD, "uncached"),
        ({"price_micros": 11, "max_price_micros": 0}, Route.CLOUD, "uncached"),
        ({"prompt_tokens": 1, "routing_threshold_tokens": 0}, Route.LOCAL, "no state to move"),
    ],
)
def test_rules(changes, route, reason):
    decision = decide(replace(LONG, **changes))
    assert decision.route is route
    assert reason in decision.reason


def test_the_deadline_keeps_time_for_local_prefill():
    tight = replace(LONG, deadline_seconds=10.0, predicted_local_seconds=8.0)
    assert decide(replace(tight, predicted_cloud_seconds=2.5)).route is Route.LOCAL
    assert decide(replace(tight, predicted_cloud_seconds=2.0)).route is Route.CLOUD
