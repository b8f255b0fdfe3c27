"""Codecs' decoders under atheris: `python tests/kernels/codec_atheris.py RUNS`, Linux on x86-64.

The first byte of an input chooses the decoder, the rest is its payload; libFuzzer keeps what
reaches a new branch of `prefill_kernels.pack`. More than 512 MiB of memory ends it as a crash.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["prefill_kernels.pack"]):
    import codec_fuzz

OPTIONS = ("-max_len=4096", "-rss_limit_mb=512", "-seed=1", "-print_final_stats=1")
DECODERS = [codec_fuzz.Decoder(target) for target in codec_fuzz.TARGETS]


def one_input(data: bytes) -> None:
    if data:
        DECODERS[data[0] % len(DECODERS)].refuses(data[1:])


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, decoder in enumerate(DECODERS):
            (Path(folder) / str(number)).write_bytes(bytes([number]) + decoder.good)
        atheris.Setup([sys.argv[0], *OPTIONS, f"-runs={runs}", folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]))
