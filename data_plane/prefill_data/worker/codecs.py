"""Which codec for which kind of tensor: the policy that was asked for, and what is offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from prefill_kernels.pack import ElementType, PackError, codec
from prefill_kernels.pack.policy import (
    AUTO,
    POLICIES,
    CodecSpeed,
    StatePart,
    allowed,
    quickest,
)
from prefill_wire.codecs import Codec, choose, codec_by_name
from prefill_wire.errors import UnsupportedCodec
from prefill_wire.status import StatusCode
from prefill_wire.tensors import TensorKind

from prefill_data.errors import DataPlaneError

Speeds = Mapping[StatePart, Mapping[str, CodecSpeed]]
UNNAMED_POLICY = "exact"  # who names no policy knows lossless codecs alone
_SEED = 20_26
_TRIES = 3  # the first one of a codec compiles and fills tables


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecWish:
    """What a customer asked for; `link_bytes_per_second` 0 means that it knows no figure.

    `permitted`: what the catalogue lets the model's states travel by; empty: any.
    """

    policy: str
    offered: tuple[str, ...]
    permitted: tuple[str, ...] = ()
    link_bytes_per_second: int = 0

    def permits(self, name: str) -> bool:
        """Whether the catalogue does."""
        return not self.permitted or name in self.permitted


def choose_codecs(wish: CodecWish, speeds: Speeds) -> dict[TensorKind, Codec]:
    """One codec a kind, for all of its chunks; UNSUPPORTED_CODEC when the wish cannot be met."""
    try:
        return {kind: _choose(wish, StatePart(kind.part), speeds) for kind in TensorKind}
    except (PackError, UnsupportedCodec) as error:
        told = f"; the catalogue allows {', '.join(wish.permitted)}" if wish.permitted else ""
        raise DataPlaneError(StatusCode.UNSUPPORTED_CODEC, f"{error}{told}") from None


def _choose(wish: CodecWish, part: StatePart, speeds: Speeds) -> Codec:
    if wish.policy == AUTO and wish.link_bytes_per_second:
        usable = [name for name in wish.offered if wish.permits(name)]
        measured = {n: speed for n, speed in speeds[part].items() if n in usable}
        return codec_by_name(quickest(part, measured, wish.link_bytes_per_second))
    return choose([n for n in allowed(wish.policy, part) if wish.permits(n)], wish.offered)


def measure_speeds(clock: Callable[[], float]) -> dict[StatePart, dict[str, CodecSpeed]]:
    """Every codec that a policy allows, on a block like each part of a state; takes 0.05 s.

    A codec's decode is timed here too: the customer's machine is not known, and what matters is
    which codec is quicker. Random values compress like a state's mantissas, which is most of it.
    """
    random = np.random.default_rng(_SEED)
    kv = random.standard_normal((512, 576), np.float32).view(np.uint32) >> 16
    blocks = {
        StatePart.KV: (kv.astype("<u2"), ElementType.BFLOAT16),
        StatePart.RECURRENT: (
            random.standard_normal((8, 128, 128), np.float32),
            ElementType.FLOAT32,
        ),
        StatePart.CONV: (random.standard_normal((12_288, 3), np.float32), ElementType.FLOAT32),
    }
    names = {p: dict.fromkeys(n for each in POLICIES.values() for n in each[p]) for p in StatePart}
    return {
        part: {name: _measure(name, *blocks[part], clock) for name in names[part]}
        for part in StatePart
    }


def _measure(
    name: str, block: np.ndarray, element: ElementType, clock: Callable[[], float]
) -> CodecSpeed:
    code, out = codec(name), np.zeros_like(block)
    coded, encode_seconds, decode_seconds = b"", inf, inf
    for _ in range(_TRIES):
        began = clock()
        coded = code.encode(block, element).payload
        between = clock()
        code.decode(coded, element, out)
        encode_seconds = min(encode_seconds, between - began)
        decode_seconds = min(decode_seconds, clock() - between)
    least = 1e-9  # a clock that stood still says that it was quick
    return CodecSpeed(
        encode_bytes_per_second=block.nbytes / max(encode_seconds, least),
        decode_bytes_per_second=block.nbytes / max(decode_seconds, least),
        ratio=block.nbytes / len(coded),
    )
