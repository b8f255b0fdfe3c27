"""Codec policies: total, ordered by quality, and `auto` by what it costs on a link."""

from __future__ import annotations

import pytest
from prefill_kernels.pack import PackError, codec, lossless_names
from prefill_kernels.pack.policy import (
    AUTO,
    DEFAULT_POLICY,
    POLICIES,
    CodecSpeed,
    StatePart,
    allowed,
    codec_for,
    decodable,
    quickest,
)

SPEEDS = {
    "raw": CodecSpeed(20e9, 20e9, 1.0),
    "planes-zstd": CodecSpeed(0.4e9, 1e9, 1.5),
    "int8-row": CodecSpeed(6e9, 8e9, 2.0),
    "int12-zstd": CodecSpeed(1e9, 1.5e9, 1.97),
    "hadamard-int4": CodecSpeed(0.2e9, 0.4e9, 3.5),
}


@pytest.mark.parametrize("part", list(StatePart))
@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_names_known_codecs_for_every_part(policy, part):
    for name in POLICIES[policy][part]:
        codec(name)
    assert codec_for(policy, part) == POLICIES[policy][part][0]


def test_exact_is_lossless_and_the_others_allow_all_that_it_does():
    for part in StatePart:
        exact = set(POLICIES["exact"][part])
        assert exact <= set(lossless_names())
        assert exact <= set(POLICIES["near-lossless"][part]) <= set(POLICIES["compact"][part])


@pytest.mark.parametrize(
    ("link_bytes_per_second", "bound", "wanted"),
    [
        (1e12, "near-lossless", "raw"),
        (1e9, "compact", "int8-row"),
        (1e8, "near-lossless", "int12-zstd"),
        (1e7, "compact", "hadamard-int4"),
        (1e7, "exact", "planes-zstd"),
        (1e10, "exact", "raw"),
    ],
)
def test_auto_takes_what_is_there_soonest(link_bytes_per_second, bound, wanted):
    found = quickest(StatePart.KV, SPEEDS, link_bytes_per_second, bound=bound)
    assert found == wanted


def test_auto_may_use_what_the_default_policy_may():
    for part in StatePart:
        assert (
            allowed(AUTO, part) == allowed(DEFAULT_POLICY, part) == POLICIES[DEFAULT_POLICY][part]
        )


@pytest.mark.parametrize("policy", [*POLICIES, AUTO])
def test_what_has_to_be_decoded_is_what_is_allowed_for_any_part(policy):
    every = {name for part in StatePart for name in allowed(policy, part)}
    assert set(decodable(policy)) == every
    assert len(decodable(policy)) == len(every)


def test_what_is_unknown_or_unmeasured_is_refused():
    with pytest.raises(PackError, match="policy 'best' is unknown"):
        codec_for("best", StatePart.KV)
    with pytest.raises(PackError, match="no codec that exact allows for conv"):
        quickest(StatePart.CONV, {"int8-row": SPEEDS["int8-row"]}, 1e9, bound="exact")
