"""Peak bytes of one prefill: `python -m prefill_engine.bench.peak_memory DIR TOKENS`.

A process of its own, since a peak never falls; it counts the interpreter and all libraries. With
`--transformers`, one forward of theirs in one shot.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
from pathlib import Path

from prefill_engine.bench.tokens import prompt


def peak_bytes(folder: Path, tokens: int, *options: str) -> int:
    """Run this module in a fresh process and read what it prints."""
    command = [sys.executable, "-m", __name__, str(folder), str(tokens), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout.split()[-1])


def main() -> None:
    """Prefill once and print the peak resident bytes of this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokens", type=int)
    parser.add_argument("--transformers", action="store_true")
    options = parser.parse_args()
    if options.transformers:
        from prefill_engine.bench.sides import Theirs

        theirs = Theirs(options.folder)
        theirs.prefill(prompt(theirs.model.config.vocab_size, options.tokens))
    else:
        from prefill_engine.engine import StepEngine

        engine = StepEngine.load(options.folder)
        handle = engine.open(prompt(engine.vocab_size, options.tokens))
        for _ in engine.prefill(handle, options.tokens):
            continue
    sys.stdout.write(f"{_peak()}\n")


def _peak() -> int:
    """Linux lets `ru_maxrss` begin at the peak of the process that forked; VmHWM is our own."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    if found is None:
        raise RuntimeError(f"{status} names no VmHWM")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
