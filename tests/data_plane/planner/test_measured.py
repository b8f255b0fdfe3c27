"""From samples to a profile: medians, no falling point, and nothing that the planner refuses."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_data.planner import schema
from prefill_data.planner.build import hardware
from prefill_data.planner.errors import InvalidInputError, MissingProfilePointError
from prefill_data.planner.measured import (
    DecodeSample,
    Measured,
    PrefillSample,
    profile_document,
    rising,
)

MACHINE = Measured("mine", "a model", "a machine", "made up by a test")
STEPS = [DecodeSample(1, 9000), DecodeSample(4, 30_000)]


def sample(tokens, prefill_us, cached_tokens=0, **codecs):
    states = {"none": 400_000 + 600 * tokens, **codecs}
    return PrefillSample(tokens, cached_tokens, prefill_us, states)


def test_the_median_of_each_length_is_the_point():
    prefills = [sample(100, us) for us in (900_000, 100_000, 110_000)]
    prefills += [sample(1000, us) for us in (500_000, 400_000, 600_000)]
    document = profile_document(MACHINE, prefills, STEPS)
    assert document["prefill"]["points"] == [[100, 0.11], [1000, 0.5]]
    assert document["state"]["none"]["points"] == [[100, 460_000.0], [1000, 1_000_000.0]]
    assert document["decode"] == [[1, 0.009], [4, 0.03]]
    machine = hardware(schema.convert(document, schema.ProfileFile))
    assert machine.prefill.last_tokens == 1000
    assert machine.decode.slots(40, "slo") == (1, 0.009)


def test_a_codecs_bytes_are_a_curve_of_their_own():
    prefills = [sample(100, 10_000, planes=300_000), sample(1000, 90_000, planes=700_000)]
    document = profile_document(MACHINE, prefills, STEPS)
    assert document["state"]["planes"]["points"] == [[100, 300_000.0], [1000, 700_000.0]]


def test_a_point_that_falls_is_pooled_and_said():
    prefills = [sample(100, 30_000), sample(200, 20_000), sample(1000, 90_000)]
    document = profile_document(MACHINE, prefills, STEPS)
    assert document["prefill"]["points"] == [[100, 0.025], [200, 0.025], [1000, 0.09]]
    assert "2 points fell" in document["source"]
    straight = profile_document(MACHINE, prefills[::2], STEPS)
    assert "fell" not in straight["source"]


def test_a_price_and_gpus_travel_as_they_were_given():
    machine = Measured("m", "model", "machine", "test", 8, 2_500_000)
    document = profile_document(machine, [sample(100, 10_000), sample(1000, 90_000)], [])
    assert document["price_micros_per_gpu_hour"] == 2_500_000
    assert document["gpus_per_instance"] == 8
    assert document["decode"] == []


def test_what_proves_nothing_is_refused():
    with pytest.raises(MissingProfilePointError, match="1 prompt lengths"):
        profile_document(MACHINE, [sample(100, 10_000)] * 3, STEPS)
    with pytest.raises(InvalidInputError, match="99 of 100 tokens came from the prefix cache"):
        profile_document(MACHINE, [sample(100, 10, 99), sample(1000, 90_000)], STEPS)
    with pytest.raises(InvalidInputError, match="codecs"):
        profile_document(MACHINE, [sample(100, 10_000, int8=1), sample(1000, 90_000)], STEPS)
    with pytest.raises(InvalidInputError, match="50 s for each token"):
        profile_document(MACHINE, [sample(10, 10**9), sample(20, 10**9)], STEPS)


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=40))
def test_rising_never_falls_keeps_the_sum_and_leaves_rising_values_alone(values):
    pooled, moved = rising(values)
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(pooled))
    assert sum(pooled) == pytest.approx(sum(values))
    ordered = sorted(values)
    assert rising(ordered) == (ordered, 0)
    assert (moved == 0) == (values == ordered)
