"""What a codec does to bytes and time, on blocks of the released model's shapes, one thread."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from prefill_kernels.pack import ElementType, codec
from prefill_kernels.pack.rows import to_bf16

KV_SHAPE = (3_584, 576)  # a chunk of 4 MiB: latent of 512 and k_pe of 64, bf16
STATE_SHAPE = (32, 128, 128)  # one layer's recurrent state, fp32
ROUNDS = 7


@dataclass(frozen=True)
class Sizes:
    """Raw bytes over coded ones, and raw gigabytes a second of process time."""

    ratio: float
    encode_gbytes_per_s: float
    decode_gbytes_per_s: float


def measure(name: str, block: np.ndarray, element: ElementType) -> Sizes:
    """Medians over rounds after one that does not count."""
    code, out = codec(name), np.empty_like(block)
    encodes, decodes, payload = [], [], b""
    for turn in range(ROUNDS + 1):
        start = time.process_time()
        payload = code.encode(block, element).payload
        coded = time.process_time()
        code.decode(payload, element, out)
        if turn:
            encodes.append(coded - start)
            decodes.append(time.process_time() - coded)
    speeds = (block.nbytes / statistics.median(each) / 1e9 for each in (encodes, decodes))
    return Sizes(block.nbytes / len(payload), *speeds)


def kv_block() -> np.ndarray:
    """Normed latent rows are near normal: bf16 bits of normal values."""
    values = np.random.default_rng(0).standard_normal(KV_SHAPE).astype(np.float32)
    return to_bf16(values).reshape(KV_SHAPE)


def state_block() -> np.ndarray:
    """A state of normal values whose rows differ in size."""
    random = np.random.default_rng(1)
    sizes = 10 ** random.uniform(-1, 1, (*STATE_SHAPE[:-1], 1))
    return np.asarray(random.standard_normal(STATE_SHAPE) * sizes, np.float32)
