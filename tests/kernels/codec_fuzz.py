"""Hostile payloads for every codec, natively and by numpy: refused, or decoded within the array.

`python tests/kernels/codec_fuzz.py RUNS` decodes seeded mutations, and encodes now and then, by
kernels built with the address and undefined-behaviour sanitizers; `codec_atheris.py` beside it
looks for new paths instead. A finding ends either with a trace.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prefill_kernels.native import Native, build, native
from prefill_kernels.native.library import PACK, declare
from prefill_kernels.pack import ElementType, PackError, codec, fast, lossy_names, names
from prefill_kernels.pack.rows import from_bf16, to_bf16

SHAPE, GUARD_ITEMS = (3, 16, 16), 64  # rows of 64 in a line, or three matrices
ITEMS = 3 * 16 * 16
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
NOTHING = Native(None, "numpy is asked for")


@dataclass(frozen=True)
class Target:
    """A decoder: the codec, what it decodes to, and whether natively."""

    name: str
    element: ElementType
    native: bool


FORMS = (True, False)
ELEMENTS = tuple(ElementType)
TARGETS = tuple(
    Target(name, element, form) for name in names() for element in ELEMENTS for form in FORMS
)


def block(seed: int, element: ElementType, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Normal values, as this element."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return values if element is ElementType.FLOAT32 else to_bf16(values).reshape(shape)


class Decoder:
    """Decodes for one target into an array between guards, and looks at what came of it."""

    def __init__(self, target: Target, library: Native | None = None) -> None:
        self.target = target
        self._form = (library or native()) if target.native else NOTHING
        self.good = codec(target.name).encode(block(1, target.element), target.element).payload
        dtype = np.dtype(target.element.numpy_name)
        self._guarded = np.full(ITEMS + 2 * GUARD_ITEMS, 7, dtype)
        self._out = self._guarded[GUARD_ITEMS:-GUARD_ITEMS].reshape(SHAPE)
        self._guard = self._guarded[:GUARD_ITEMS].tobytes()

    def refuses(self, payload: bytes) -> bool:
        """Whether it is refused; fails when a guard is written or a lossy codec gives no number."""
        target, refused = self.target, False
        fast.native = lambda: self._form
        try:
            codec(target.name).decode(payload, target.element, self._out)
        except PackError:
            refused = True
        finally:
            fast.native = native
        assert self._guarded[:GUARD_ITEMS].tobytes() == self._guard
        assert self._guarded[-GUARD_ITEMS:].tobytes() == self._guard
        if not refused and target.name in lossy_names():
            bf16 = target.element is ElementType.BFLOAT16
            assert np.isfinite(from_bf16(self._out) if bf16 else self._out).all()
        return refused


def mutated(good: bytes, dice: random.Random) -> bytes:
    """Cut short, grown or with bytes changed, most often in the head."""
    bad = bytearray(good)
    if dice.random() < 0.3:
        del bad[dice.randrange(len(bad)) :]
    elif dice.random() < 0.1:
        bad += dice.randbytes(dice.randrange(1, 9))
    for _ in range(dice.randrange(1, 4)):
        if bad:
            at = dice.randrange(min(len(bad), dice.choice([16, len(bad)])))
            bad[at] = dice.randrange(256)
    return bytes(bad)


def fuzz(decoder: Decoder, count: int) -> int:
    """Decode so many mutations; how many were refused."""
    dice = random.Random(repr(decoder.target))
    return sum(decoder.refuses(mutated(decoder.good, dice)) for _ in range(count))


def sanitized(folder: Path) -> Native:
    """The codecs' kernels with sanitizers; the process must have libasan loaded first."""
    here, target = Path(build.__file__).parent, folder / "sanitized.so"
    sources = [str(here / name) for name in ("pack.cpp", "hadamard.cpp")]
    command = ["g++", "-std=c++17", "-fPIC", "-shared", "-march=native", *SANITIZERS]
    subprocess.run([*command, *sources, "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    declare(library, PACK)
    return Native(library)


def sanitizer_environment() -> dict[str, str]:
    """What a process needs to load sanitized kernels and to see overruns of small bytes."""
    found = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    chosen = {"LD_PRELOAD": found.stdout.strip(), "PYTHONMALLOC": "malloc"}
    return {**os.environ, **chosen, "ASAN_OPTIONS": "detect_leaks=0"}


def encodings(library: Native, seed: int) -> None:
    """Encode arrays of many shapes into buffers of exactly their payloads' sizes."""
    shape = tuple(np.random.default_rng(seed).integers(1, 70, 1 + seed % 3))
    fast.native = lambda: library
    for name in names():
        for element in ELEMENTS:
            fast.forget_buffer()
            codec(name).encode(block(seed, element, shape), element)
    fast.native = native


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = sanitized(Path(folder))
    targets = [target for target in TARGETS if target.native]
    began, each = time.monotonic(), -(-runs // len(targets))
    for number, target in enumerate(targets):
        for seed in range(20):
            encodings(library, 20 * number + seed)
        refused = fuzz(Decoder(target, library), each)
        sys.stdout.write(f"{target.name} {target.element.name}: {refused} of {each} refused\n")
        sys.stdout.flush()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{each * len(targets)} runs in {seconds:.0f} s, nothing found\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
