"""Train and export the recall model: `python -m prefill_engine.training.train_mqar --out DIR`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import KimiLinearForCausalLM
from transformers.models.kimi_linear import modeling_kimi_linear as modeling

from prefill_engine.training.export import export, reload_difference, round_to_bf16
from prefill_engine.training.kimi import build_model
from prefill_engine.training.mqar import BOS, EOS, PAD, VOCAB, RecallBatch, recall_batch
from prefill_engine.training.optimizer import build_optimizers, learning_rate, update
from prefill_engine.training.record import run_facts
from prefill_engine.training.shapes import Shape, make_config
from prefill_engine.training.words import save_word_tokenizer

CURRICULUM = (4, 8, 16, 24)  # pairs in the first steps, STEPS_PER_STAGE each; then all 32
STEPS_PER_STAGE = 80
PAIRS = 32
HELD_OUT_SEED = 1_000_000_007  # training batch n is drawn from seed * 1_000_000 + n
SHAPE = Shape(
    vocab_size=VOCAB,
    hidden_size=128,
    dense_size=256,
    kda_layers=(2, 3),
    mla_layers=(1,),
    kda_heads=2,
    kda_head_dim=64,
    mla_heads=2,
    latent_size=32,
    max_tokens=4096,
)


def answer_logits(model: KimiLinearForCausalLM, batch: RecallBatch) -> Tensor:
    """Logits at the query positions, `[N, P, vocabulary]`."""
    hidden = model.model(torch.from_numpy(batch.tokens), use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, torch.from_numpy(batch.query_positions)])
    return logits


def train(
    steps: int, rate: float, seed: int, sequences: int
) -> tuple[KimiLinearForCausalLM, list[float]]:
    """Train on fresh batches; returns the model and its loss in nats per answer, step by step."""
    config = make_config(SHAPE) | {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    model = build_model(config, seed)
    optimizers = build_optimizers(model, rate)
    losses: list[float] = []
    for step in range(steps):
        stage = step // STEPS_PER_STAGE
        pairs = CURRICULUM[stage] if stage < len(CURRICULUM) else PAIRS
        batch = recall_batch(seed * 1_000_000 + step, sequences, pairs)
        logits, answers = answer_logits(model, batch), torch.from_numpy(batch.answers)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        torch.autograd.backward(loss)
        norm = update(model, optimizers, learning_rate(rate, step / steps))
        losses.append(loss.item())
        if step % 20 == 0:
            recall = float((logits.argmax(-1) == answers).float().mean())
            line = (
                f"{step} {pairs} pairs {losses[-1]:.3f} nats, recall {recall:.3f}, |g| {norm:.2f}"
            )
            print(line, flush=True)  # noqa: T201
    return model, losses


@contextmanager
def state_cleared(at: int) -> Iterator[None]:
    """Make every KDA layer forget its state after `at` tokens; the other caches stay."""
    module: Any = modeling
    kept: Callable[..., tuple[Tensor, Tensor]] = module.chunk_kimi_delta_attention

    def forgetting(*qkv: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        gates = {name: options.pop(name) for name in ("g", "beta")}
        parts = []
        for rows in (slice(None, at), slice(at, None)):
            cut = {name: x[:, rows] for name, x in gates.items()}
            parts.append(kept(*(x[:, rows] for x in qkv), **cut, **options))
        return torch.cat([out for out, _ in parts], dim=1), parts[-1][1]

    module.chunk_kimi_delta_attention = forgetting
    try:
        yield
    finally:
        module.chunk_kimi_delta_attention = kept


@torch.no_grad()
def measure(model: KimiLinearForCausalLM, sequences: int = 256) -> dict[str, float]:
    """Recall in [0, 1] and nats per answer on unseen batches, whole and with the states zeroed."""
    figures: dict[str, float] = {}
    for pairs in (8, 16, PAIRS, 48):
        batch = recall_batch(HELD_OUT_SEED, sequences, pairs)
        answers = torch.from_numpy(batch.answers)
        logits = answer_logits(model, batch)
        figures[f"recall_{pairs}_pairs"] = float((logits.argmax(-1) == answers).float().mean())
        nats = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        figures[f"nats_per_answer_{pairs}_pairs"] = float(nats)
    batch = recall_batch(HELD_OUT_SEED, sequences, PAIRS)
    with state_cleared(batch.prompt_tokens):
        choice = answer_logits(model, batch).argmax(-1).numpy()
    figures["recall_32_pairs_zeroed_state"] = float((choice == batch.answers).mean())
    return figures


def main() -> None:
    """Train, measure and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=560)
    parser.add_argument("--rate", type=float, default=2.5e-3, help="peak learning rate")
    parser.add_argument("--sequences", type=int, default=64, help="sequences per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    model, losses = train(options.steps, options.rate, options.seed, options.sequences)
    seconds = time.monotonic() - start
    round_to_bf16(model)
    export(model, options.out)
    save_word_tokenizer(options.out, SHAPE.max_tokens)
    sample = torch.from_numpy(recall_batch(HELD_OUT_SEED, 4, PAIRS).tokens)
    metrics = {
        **measure(model),
        "reload_max_logit_difference": reload_difference(model, options.out, sample),
        "training_loss_nats": sum(losses[-20:]) / len(losses[-20:]),
        "steps": options.steps,
        "sequences_per_step": options.sequences,
        "peak_learning_rate": options.rate,
        "seed": options.seed,
        "wall_seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        **run_facts("train_mqar"),
    }
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics))  # noqa: T201


if __name__ == "__main__":
    main()
