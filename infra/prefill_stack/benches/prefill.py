"""Bench `prefill`: our engine against plain transformers, both in this run, by turns.

Ratios are transformers' median seconds over ours (above 1: we are faster), on random tokens, fp32,
all threads. At 16,384 tokens transformers goes once, in steps of 2,048; ours is a median there too.
Peak memory is that of a process of its own for each side, theirs in one shot, ours by its steps.
Which measure runs is told on stderr.
With `--device cuda` it is KDA alone on a GPU, against fla and the roofs of memory and matrices.
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from prefill_stack import shipped
from prefill_stack.console import people

ROUNDS = 5
SHORT_TOKENS, COMPARED_TOKENS, LONG_TOKENS = 64, 4_096, 16_384
DECODED_TOKENS = 64
THEIR_STEP_TOKENS = 2_048
THEIR_KDA_TOKENS = 512


def whole_prefill(folder: Path, tokens: int, rounds: int) -> float:
    """How many times as fast as transformers' one forward over these tokens."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns
    from prefill_engine.bench.tokens import prompt

    ours, theirs = Ours(folder), Theirs(folder)
    ids = prompt(ours.engine.vocab_size, tokens)
    mine, yours = in_turns((lambda: ours.prefill(ids), lambda: theirs.prefill(ids)), rounds)
    return yours / mine


def long_prefill(folder: Path, *, compared: bool) -> tuple[float, float]:
    """Our median seconds at 16,384 tokens, and the seconds of transformers' one run (or 0)."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns
    from prefill_engine.bench.tokens import prompt

    ours = Ours(folder)
    ids = prompt(ours.engine.vocab_size, LONG_TOKENS)
    (mine,) = in_turns((lambda: ours.prefill(ids),), ROUNDS)
    if not compared:
        return mine, 0.0
    theirs = Theirs(folder)
    (yours,) = in_turns((lambda: theirs.prefill(ids, THEIR_STEP_TOKENS),), 1, warm=0)
    return mine, yours


def decoding(folder: Path) -> float:
    """transformers' `generate` over our loop, the prefill of 64 tokens taken off on both sides."""
    from prefill_engine.bench.sides import Ours, Theirs
    from prefill_engine.bench.timing import in_turns
    from prefill_engine.bench.tokens import prompt

    ours, theirs = Ours(folder), Theirs(folder)
    ids = prompt(ours.engine.vocab_size, SHORT_TOKENS)
    sides = (
        lambda: ours.generate(ids, 1),
        lambda: ours.generate(ids, 1 + DECODED_TOKENS),
        lambda: theirs.generate(ids, 1),
        lambda: theirs.generate(ids, 1 + DECODED_TOKENS),
    )
    first, all_ours, their_first, all_theirs = in_turns(sides, ROUNDS)
    return (all_theirs - their_first) / (all_ours - first)


def run_cuda() -> dict[str, object]:
    """KDA on this machine's CUDA device; leaves its figures in `kernels/results/` too."""
    from prefill_engine.bench import cuda

    found = cuda.measure(datetime.now(UTC).date())
    return {**found, "written_to": str(cuda.write_result(found))}


def run() -> dict[str, object]:
    """All figures; some minutes, most of them transformers'."""
    from prefill_engine.bench.kda import measure_kda
    from prefill_engine.bench.peak_memory import peak_bytes
    from prefill_engine.random_checkpoint import WIDE, write_checkpoint

    small = shipped.checkpoint(shipped.CODE_LM)
    with tempfile.TemporaryDirectory() as scratch:
        wide = write_checkpoint(Path(scratch), WIDE, seed=0, deviation=0.02)
        _tell("the shipped model, 4,096 tokens, both sides by turns")
        shipped_ratio = whole_prefill(small, COMPARED_TOKENS, ROUNDS)
        _tell("the shipped model, 64 tokens")
        short_ratio = whole_prefill(small, SHORT_TOKENS, 4 * ROUNDS)
        _tell("the wide model, 4,096 tokens")
        wide_ratio = whole_prefill(wide, COMPARED_TOKENS, ROUNDS)
        _tell("the wide model, 16,384 tokens; transformers goes once")
        ours_wide, theirs_wide = long_prefill(wide, compared=True)
    _tell("the shipped model, 16,384 tokens, ours")
    ours_long, _ = long_prefill(small, compared=False)
    _tell("KDA alone")
    kda = measure_kda(COMPARED_TOKENS, THEIR_KDA_TOKENS, ROUNDS)
    _tell("decoding")
    decode_ratio = decoding(small)
    _tell("peak memory at 16,384 tokens, ours, then transformers' in one shot")
    mine, yours = peak_bytes(small, LONG_TOKENS), peak_bytes(small, LONG_TOKENS, "--transformers")
    return {
        "shipped_4096_ratio": round(shipped_ratio, 2),
        "wide_4096_ratio": round(wide_ratio, 2),
        "wide_16384_ratio": round(theirs_wide / ours_wide, 2),
        "short_64_ratio": round(short_ratio, 2),
        "kda_gemm_peak_fraction": round(kda.gemm_peak_fraction, 3),
        "kda_ratio": round(kda.ratio, 1),
        "decode_ratio": round(decode_ratio, 2),
        "tokens_per_second_16384": round(LONG_TOKENS / ours_long),
        "peak_rss_16384_bytes": mine,
        "transformers_peak_rss_16384_bytes": yours,
        "peak_memory_fraction": round(mine / yours, 3),
    }


def _tell(text: str) -> None:
    people(quiet=True).print(f"prefill: {text}")
