"""The codecs: what goes in comes out, and what was damaged is refused by type."""

from __future__ import annotations

import numpy as np
import pytest
from prefill_kernels.pack import ElementType, PackError, codec, max_payload_bytes, names


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("element", list(ElementType))
@pytest.mark.parametrize("shape", [(1,), (7, 5), (3, 64, 64), (0,)])
def test_round_trip(name: str, element: ElementType, shape: tuple[int, ...]) -> None:
    block = np.random.default_rng(1).integers(0, 256, (*shape, element.dtype.itemsize), np.uint8)
    block = block.view(element.dtype).reshape(shape)
    done = codec(name).encode(block, element)
    assert len(done.payload) <= max_payload_bytes(name, block.nbytes)
    out = np.zeros_like(block)
    codec(name).decode(done.payload, element, out)
    assert out.tobytes() == block.tobytes()


def test_damage_is_refused_or_changes_only_values() -> None:
    rng = np.random.default_rng(2)
    block = rng.standard_normal((16, 16)).astype("<f4")
    payload = codec("planes-zstd").encode(block, ElementType.FLOAT32).payload
    for cut in range(len(payload)):
        with pytest.raises(PackError):
            codec("planes-zstd").decode(payload[:cut], ElementType.FLOAT32, np.zeros_like(block))
    for _ in range(500):
        bad = bytearray(payload)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        try:
            codec("planes-zstd").decode(bytes(bad), ElementType.FLOAT32, np.zeros_like(block))
        except PackError:
            continue


def test_unknown_codec() -> None:
    with pytest.raises(PackError, match="unknown"):
        codec("zip")
