"""Which codec for which part of a state, by the quality that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from prefill_kernels.pack.element import PackError


class StatePart(Enum):
    """Cache rows of attention, recurrent matrices, convolution tails."""

    KV = "kv"
    RECURRENT = "recurrent"
    CONV = "conv"


# The first of a part's codecs is the policy's own; the others are no worse and may be quicker.
_EXACT = ("planes-zstd", "raw")
POLICIES: Mapping[str, Mapping[StatePart, tuple[str, ...]]] = {
    "exact": dict.fromkeys(StatePart, _EXACT),
    "near-lossless": {
        StatePart.KV: ("int12-zstd", *_EXACT),
        StatePart.RECURRENT: ("int12-zstd", *_EXACT),
        StatePart.CONV: ("bf16", *_EXACT),
    },
    "compact": {
        StatePart.KV: ("hadamard-int4", "int8-row", "int12-zstd", *_EXACT),
        StatePart.RECURRENT: ("hadamard-int4", "hadamard-int8", "int12-zstd", *_EXACT),
        StatePart.CONV: ("int8-row", "bf16", *_EXACT),
    },
}
DEFAULT_POLICY = "near-lossless"
AUTO = "auto"  # whatever is there soonest of what the default policy allows
POLICY_NAMES = (*POLICIES, AUTO)


@dataclass(frozen=True, slots=True)
class CodecSpeed:
    """A codec as measured on this kind of state: bytes are raw ones; ratio is raw over coded."""

    encode_bytes_per_second: float
    decode_bytes_per_second: float
    ratio: float

    def seconds(self, raw_bytes: int, link_bytes_per_second: float) -> float:
        """Encode, wire and decode, one after the other."""
        coding = 1 / self.encode_bytes_per_second + 1 / self.decode_bytes_per_second
        return raw_bytes * (coding + 1 / (self.ratio * link_bytes_per_second))


def codec_for(policy: str, part: StatePart) -> str:
    """The codec of a policy for a part of the state; of `auto`, while no link was measured."""
    return allowed(policy, part)[0]


def quickest(
    part: StatePart,
    speeds: Mapping[str, CodecSpeed],
    link_bytes_per_second: float,
    *,
    bound: str = DEFAULT_POLICY,
) -> str:
    """`auto`: of the codecs within the bound of a policy, the one that is there soonest."""
    known = [name for name in allowed(bound, part) if name in speeds]
    if not known:
        raise PackError(f"no codec that {bound} allows for {part.value} was measured")
    return min(known, key=lambda name: speeds[name].seconds(1, link_bytes_per_second))


def allowed(policy: str, part: StatePart) -> tuple[str, ...]:
    """Every codec that keeps a policy's promise for a part, the policy's own first."""
    bound = DEFAULT_POLICY if policy == AUTO else policy
    if bound not in POLICIES:
        raise PackError(f"policy {policy[:40]!r} is unknown, there are {', '.join(POLICY_NAMES)}")
    return POLICIES[bound][part]


def decodable(policy: str) -> tuple[str, ...]:
    """Every codec that a state under this policy may come in, for any of its parts."""
    return tuple(dict.fromkeys(name for part in StatePart for name in allowed(policy, part)))
