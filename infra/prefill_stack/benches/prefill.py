"""Bench `prefill`: our engine against plain transformers, both in this run, by turns.

Ratios are transformers' median seconds over ours (above 1: we are faster), on random tokens, fp32,
all threads. At 16,384 tokens transformers goes once, in steps of 2,048; ours is a median there too.
Every measure has a process of its own, both its sides in it; peak memory one for each side, theirs
in one shot, ours by its steps.
Which measure runs is told on stderr.
With `--device cuda` it is KDA alone on a GPU, against fla and the roofs of memory and matrices.
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from prefill_stack import shipped
from prefill_stack.console import people

SHORT_TOKENS, COMPARED_TOKENS, LONG_TOKENS = 64, 4_096, 16_384


def run_cuda() -> dict[str, object]:
    """KDA on this machine's CUDA device; leaves its figures in `kernels/results/` too."""
    from prefill_engine.bench import cuda

    found = cuda.measure(datetime.now(UTC).date())
    return {**found, "written_to": str(cuda.write_result(found))}


def run() -> dict[str, object]:
    """All figures; some minutes, most of them transformers'."""
    from prefill_engine.bench.measures import measure
    from prefill_engine.bench.peak_memory import peak_bytes
    from prefill_engine.random_checkpoint import WIDE, write_checkpoint

    small = shipped.checkpoint(shipped.CODE_LM)
    with tempfile.TemporaryDirectory() as scratch:
        wide = write_checkpoint(Path(scratch), WIDE, seed=0, deviation=0.02)
        _tell("the shipped model, 4,096 tokens, both sides by turns")
        shipped_compared = measure("prefill", small, COMPARED_TOKENS)
        _tell("the shipped model, 64 tokens")
        short = measure("prefill", small, SHORT_TOKENS)
        _tell("the wide model, 4,096 tokens")
        wide_compared = measure("prefill", wide, COMPARED_TOKENS)
        _tell("the wide model, 16,384 tokens; transformers goes once")
        wide_long = measure("long_prefill", wide, LONG_TOKENS)
    _tell("the shipped model, 16,384 tokens, ours")
    long = measure("our_prefill", small, LONG_TOKENS)
    _tell("KDA alone")
    kda = measure("kda", small, COMPARED_TOKENS)
    _tell("decoding")
    decoding = measure("decoding", small, SHORT_TOKENS)
    _tell("peak memory at 16,384 tokens, ours, then transformers' in one shot")
    mine, yours = peak_bytes(small, LONG_TOKENS), peak_bytes(small, LONG_TOKENS, "--transformers")
    return {
        "shipped_4096_ratio": _ratio(shipped_compared),
        "wide_4096_ratio": _ratio(wide_compared),
        "wide_16384_ratio": _ratio(wide_long),
        "short_64_ratio": _ratio(short),
        "kda_gemm_peak_fraction": round(kda["gemm_peak_fraction"], 3),
        "kda_ratio": round(kda["ratio"], 1),
        "decode_ratio": _ratio(decoding),
        "tokens_per_second_16384": round(LONG_TOKENS / long["ours_seconds"]),
        "peak_rss_16384_bytes": mine,
        "transformers_peak_rss_16384_bytes": yours,
        "peak_memory_fraction": round(mine / yours, 3),
        "measures": {
            "shipped_4096": shipped_compared,
            "wide_4096": wide_compared,
            "wide_16384": wide_long,
            "short_64": short,
            "kda_4096": kda,
            "decode_64": decoding,
        },
    }


def _ratio(found: dict[str, float]) -> float:
    return round(found["theirs_seconds"] / found["ours_seconds"], 2)


def _tell(text: str) -> None:
    people(quiet=True).print(f"prefill: {text}")
