"""One measure in a process of its own: `python -m prefill_engine.bench.measures NAME DIR TOKENS`.

Both sides of a measure run in that process, by turns. What an earlier measure left in the memory
allocator must not count: transformers' chunk form, which takes new pages at every call, is three
times as fast where the allocator happens to keep them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from prefill_engine.bench.tokens import prompt

ROUNDS = 5
SHORT_TOKENS = 64  # up to here a run takes so little time that it is repeated more often
DECODED_TOKENS = 64
THEIR_STEP_TOKENS = 2_048
Figures = dict[str, float]


def measure(name: str, folder: Path, tokens: int) -> Figures:
    """The figures of one measure, taken in a fresh process; its words if it fails."""
    command = [sys.executable, "-m", __name__, name, str(folder), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"measure {name} at {tokens} tokens failed:\n{done.stderr[-2_000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def prefill(folder: Path, tokens: int) -> Figures:
    """Median seconds of both sides' prefill, transformers' in one forward."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns

    ours, theirs = Ours(folder), Theirs(folder)
    ids = prompt(ours.engine.vocab_size, tokens)
    rounds = 4 * ROUNDS if tokens <= SHORT_TOKENS else ROUNDS
    mine, yours = in_turns((lambda: ours.prefill(ids), lambda: theirs.prefill(ids)), rounds)
    return {"ours_seconds": mine, "theirs_seconds": yours}


def long_prefill(folder: Path, tokens: int) -> Figures:
    """Our median seconds, and those of transformers' one run in steps."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns

    found, theirs = our_prefill(folder, tokens), Theirs(folder)
    ids = prompt(Ours(folder).engine.vocab_size, tokens)
    (yours,) = in_turns((lambda: theirs.prefill(ids, THEIR_STEP_TOKENS),), 1, warm=0)
    return {**found, "theirs_seconds": yours}


def our_prefill(folder: Path, tokens: int) -> Figures:
    """Our median seconds alone."""
    from prefill_engine.bench.sides import Ours
    from prefill_engine.bench.timing import in_turns

    ours = Ours(folder)
    ids = prompt(ours.engine.vocab_size, tokens)
    (mine,) = in_turns((lambda: ours.prefill(ids),), ROUNDS)
    return {"ours_seconds": mine}


def kda(folder: Path, tokens: int) -> Figures:
    """KDA alone, both sides over the same tokens; no checkpoint is read."""
    from prefill_engine.bench.kda import measure_kda

    found = measure_kda(tokens, tokens, ROUNDS)
    return {**asdict(found), "ratio": found.ratio, "gemm_peak_fraction": found.gemm_peak_fraction}


def decoding(folder: Path, tokens: int) -> Figures:
    """Seconds of 64 greedy tokens, the prefill of `tokens` taken off on both sides."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns

    ours, theirs = Ours(folder), Theirs(folder)
    ids = prompt(ours.engine.vocab_size, tokens)
    sides = (
        lambda: ours.generate(ids, 1),
        lambda: ours.generate(ids, 1 + DECODED_TOKENS),
        lambda: theirs.generate(ids, 1),
        lambda: theirs.generate(ids, 1 + DECODED_TOKENS),
    )
    first, all_ours, their_first, all_theirs = in_turns(sides, ROUNDS)
    return {"ours_seconds": all_ours - first, "theirs_seconds": all_theirs - their_first}


MEASURES: dict[str, Callable[[Path, int], Figures]] = {
    each.__name__: each for each in (prefill, long_prefill, our_prefill, kda, decoding)
}


def main() -> None:
    """Take one measure and print it as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(MEASURES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokens", type=int)
    options = parser.parse_args()
    found = MEASURES[options.name](options.folder, options.tokens)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
