"""Bench `codec`: every state codec and policy, its size, speed and what it does to answers.

Ratios and speeds are of the released model's shapes (bf16 cache rows of 576, fp32 states of 128 x
128), one thread. Speeds are of the cache rows. KL and agreement are on held-out code, recall on the
MQAR model, each on the shipped model's own, narrower shapes.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from prefill_stack import shipped

if TYPE_CHECKING:
    from prefill_engine.bench.codec_quality import CodeText, Recall
    from prefill_kernels.pack.policy import StatePart

POSITIONS = 20_480


def run() -> dict[str, object]:
    """One row for each codec, applied to every part, and for each policy."""
    from prefill_engine.bench.codec_quality import CodeText, Recall
    from prefill_kernels.pack import lossy_names, names
    from prefill_kernels.pack.policy import POLICIES, codec_for

    text = CodeText(shipped.checkpoint(shipped.CODE_LM), POSITIONS)
    recall = Recall(shipped.checkpoint(shipped.MQAR))
    choices = {name: _same(name) for name in (*names(), *lossy_names())}
    choices |= {policy: partial(codec_for, policy) for policy in POLICIES}
    rows = [_row(name, choice, text, recall) for name, choice in choices.items()]
    return {"positions": text.positions, "answers": int(recall.answers.size), "codecs": rows}


def _same(name: str) -> "Callable[[StatePart], str]":
    return lambda part: name


def _row(
    name: str, choice: "Callable[[StatePart], str]", text: "CodeText", recall: "Recall"
) -> dict[str, object]:
    from prefill_engine.bench.codec_quality import quality
    from prefill_engine.bench.codec_speed import kv_block, measure, state_block
    from prefill_kernels.pack import ElementType
    from prefill_kernels.pack.policy import StatePart

    kv = measure(choice(StatePart.KV), kv_block(), ElementType.BFLOAT16)
    state = measure(choice(StatePart.RECURRENT), state_block(), ElementType.FLOAT32)
    found = quality(text, recall, choice)
    return {
        "name": name,
        "kv_ratio": round(kv.ratio, 3),
        "state_ratio": round(state.ratio, 3),
        "encode_gbytes_per_s": round(kv.encode_gbytes_per_s, 2),
        "decode_gbytes_per_s": round(kv.decode_gbytes_per_s, 2),
        "kl": float(f"{found.kl:.3g}"),
        "top1_agreement": round(found.top1_agreement, 6),
        "mqar_recall": round(found.mqar_recall, 5),
        "mqar_answers_changed_fraction": round(found.mqar_answers_changed_fraction, 6),
    }
