"""Bench `codec`: every state codec and policy, its size, speed and what it does to answers.

Ratios and speeds are of the released model's shapes (bf16 cache rows of 576, fp32 states of 128 x
128), one thread, in CPU seconds. KL and agreement are on held-out code, recall on the MQAR model,
each on the shipped model's own, narrower shapes; drift after 1,000 real decode steps. Progress goes
to stderr, a plot of ratio against KL into `.prefill/` of the current folder.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefill_stack import shipped
from prefill_stack.console import people

if TYPE_CHECKING:
    from prefill_engine.bench.codec_quality import CodeText, Recall
    from prefill_kernels.pack.policy import StatePart

POSITIONS = 20_480
PLOT = Path(".prefill") / "codec.png"


def run() -> dict[str, object]:
    """One row for each codec, applied to every part, and for each policy."""
    from prefill_engine.bench.codec_drift import Decodes
    from prefill_engine.bench.codec_quality import CodeText, Recall
    from prefill_kernels.pack import lossy_names, names
    from prefill_kernels.pack.policy import POLICIES, codec_for

    _tell("states over held-out code and pairs to recall")
    text = CodeText(shipped.checkpoint(shipped.CODE_LM), POSITIONS)
    recall = Recall(shipped.checkpoint(shipped.MQAR))
    policies = {policy: partial(codec_for, policy) for policy in POLICIES}
    choices = {name: _same(name) for name in (*names(), *lossy_names())} | policies
    rows = [_row(name, choice, text, recall) for name, choice in choices.items()]
    _tell("1,000 decode steps from the true states")
    decodes, drift = Decodes(text), {}
    for policy, choice in policies.items():
        _tell(f"1,000 decode steps, {policy}")
        drift[policy] = asdict(decodes.drift(choice))
    return {
        "positions": text.positions,
        "answers": int(recall.answers.size),
        "codecs": rows,
        "drift": drift,
        "plot": str(_plotted(rows, set(policies))),
    }


def _same(name: str) -> "Callable[[StatePart], str]":
    return lambda part: name


def _tell(text: str) -> None:
    people(quiet=True).print(text)


def _row(
    name: str, choice: "Callable[[StatePart], str]", text: "CodeText", recall: "Recall"
) -> dict[str, Any]:
    from prefill_engine.bench.codec_quality import quality
    from prefill_engine.bench.codec_speed import kv_block, measure, state_block
    from prefill_kernels.pack import ElementType
    from prefill_kernels.pack.policy import StatePart

    kv = measure(choice(StatePart.KV), kv_block(), ElementType.BFLOAT16)
    state = measure(choice(StatePart.RECURRENT), state_block(), ElementType.FLOAT32)
    found = quality(text, recall, choice)
    _tell(f"{name}: {kv.ratio:.2f} and {state.ratio:.2f} times smaller, KL {found.kl:.2g}")
    return {
        "name": name,
        "kv_ratio": round(kv.ratio, 3),
        "state_ratio": round(state.ratio, 3),
        "encode_gbytes_per_s": round(kv.encode_gbytes_per_s, 2),
        "decode_gbytes_per_s": round(kv.decode_gbytes_per_s, 2),
        "state_encode_gbytes_per_s": round(state.encode_gbytes_per_s, 2),
        "state_decode_gbytes_per_s": round(state.decode_gbytes_per_s, 2),
        "kl": float(f"{found.kl:.3g}"),
        "kl_standard_error": float(f"{found.kl_standard_error:.2g}"),
        "top1_agreement": round(found.top1_agreement, 6),
        "mqar_recall": round(found.mqar_recall, 5),
        "mqar_answers_changed_fraction": round(found.mqar_answers_changed_fraction, 6),
    }


def _plotted(rows: list[dict[str, Any]], policies: set[str]) -> Path:
    from prefill_stack.codec_plot import draw

    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_bytes(draw(rows, policies))
    return PLOT.resolve()
