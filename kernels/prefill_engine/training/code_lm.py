"""The code LM: a tiny Kimi Linear with experts, trained on the Python standard library."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Bpe
from torch import Tensor
from torch.nn import functional
from transformers import KimiLinearForCausalLM

from prefill_engine.training.bpe import save_tokenizer, train_tokenizer
from prefill_engine.training.corpus import END_OF_TEXT, Corpus, read_corpus, shuffled
from prefill_engine.training.export import export, reload_difference, round_to_bf16
from prefill_engine.training.kimi import LoadBalancer, build_model, compile_pieces
from prefill_engine.training.optimizer import build_optimizers, learning_rate, update
from prefill_engine.training.record import run_facts
from prefill_engine.training.shapes import Shape, make_config

CONTEXT_TOKENS = 4096
SHORT = (4, 1024)  # windows a step and their tokens in the first part, then one of 4,096
SHORT_SHARE = 0.6
SHAPE = Shape(
    vocab_size=2048,
    hidden_size=256,
    dense_size=640,
    kda_layers=(1, 2, 3),
    mla_layers=(4,),
    kda_heads=4,
    kda_head_dim=64,
    experts=4,
    expert_size=160,
)


@dataclass(frozen=True)
class Plan:
    """A run: wall time, seed, peak learning rate and the folder it goes on from, if any."""

    minutes: float
    seed: int
    rate: float
    start: Path | None = None
    compiled: bool = False


@dataclass
class Progress:
    """Where a run stands: steps, tokens seen and the running mean of the loss in nats."""

    steps: int = 0
    tokens: int = 0
    loss: float = 8.0


def encode(tokenizer: Bpe, corpus: Corpus, seed: int) -> np.ndarray:
    """All training files in the seed's order, one stream of ids, files ended by end of text."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    texts = [source.text for source in shuffled(corpus.training, seed)]
    encoded = tokenizer.encode_batch(texts)
    return np.concatenate([np.array([*e.ids, end], dtype=np.int64) for e in encoded])


def next_token_loss(model: KimiLinearForCausalLM, tokens: Tensor) -> Tensor:
    """Mean cross entropy in nats of `tokens[:, 1:]`, tokens `[B, T + 1]`."""
    logits = model(tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def draw(stream: np.ndarray, random: np.random.Generator, windows: int, length: int) -> Tensor:
    """Windows from random places of the stream: `[windows, length + 1]`."""
    starts = random.integers(0, len(stream) - length - 1, windows)
    return torch.from_numpy(np.stack([stream[s : s + length + 1] for s in starts]))


def train(
    stream: np.ndarray, plan: Plan, snapshot: Callable[[KimiLinearForCausalLM], None]
) -> tuple[KimiLinearForCausalLM, Progress]:
    """Train for the plan's wall time; `snapshot` gets the model every 200 steps."""
    model = build_model(make_config(SHAPE), plan.seed)
    if plan.start is not None:
        earlier = KimiLinearForCausalLM.from_pretrained(plan.start, dtype=torch.float32)
        model.load_state_dict(earlier.state_dict())
    if plan.compiled:
        compile_pieces()
    optimizers = build_optimizers(model, plan.rate)
    balancer = LoadBalancer(model)
    random = np.random.default_rng(plan.seed)
    start, done = time.monotonic(), Progress()
    while (part := (time.monotonic() - start) / (60 * plan.minutes)) < 1:
        windows, length = SHORT if part < SHORT_SHARE else (1, CONTEXT_TOKENS)
        loss = next_token_loss(model, draw(stream, random, windows, length))
        torch.autograd.backward(loss)
        update(model, optimizers, learning_rate(plan.rate, part))
        worst = balancer.step()
        done.steps, done.tokens = done.steps + 1, done.tokens + windows * length
        done.loss += 0.03 * (loss.item() - done.loss)
        if done.steps % 20 == 0:
            rate = done.tokens / (time.monotonic() - start)
            print(f"{done.steps} {done.loss:.3f} nats {rate:.0f} tokens/s {worst:.2f}", flush=True)  # noqa: T201
        if done.steps % 200 == 0:
            snapshot(model)
    return model, done


@torch.no_grad()
def held_out_loss(model: KimiLinearForCausalLM, tokenizer: Bpe, corpus: Corpus) -> dict[str, float]:
    """Nats per token and per byte over the first 4,096 tokens of every held-out file."""
    nats, tokens, size = 0.0, 0, 0
    for source in corpus.held_out:
        ids = tokenizer.encode(source.text).ids[: CONTEXT_TOKENS + 1]
        loss = float(next_token_loss(model, torch.tensor([ids])))
        nats += loss * (len(ids) - 1)
        tokens += len(ids) - 1
        size += len(tokenizer.decode(ids[1:]).encode())
    return {"nats_per_token": nats / tokens, "nats_per_byte": nats / size}


def earlier_runs(start: Path | None) -> list[dict[str, Any]]:
    """The metrics of the runs that this one goes on from, first run first."""
    if start is None:
        return []
    metrics: dict[str, Any] = json.loads((start / "metrics.json").read_text())
    return [*metrics.pop("earlier", ()), metrics]


def main() -> None:
    """Train and export: `python -m prefill_engine.training.code_lm --out DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=35.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, help="go on from an exported folder")
    parser.add_argument("--compile", action="store_true", help="fuse pieces: 1.3 times the speed")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus = read_corpus()
    texts = [source.text for source in corpus.training]
    tokenizer = train_tokenizer(texts, SHAPE.vocab_size)
    stream = encode(tokenizer, corpus, options.seed)
    print(f"{len(texts)} files, {len(stream)} tokens", flush=True)  # noqa: T201
    options.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, options.out, SHAPE.max_tokens)
    start = time.monotonic()
    plan = Plan(options.minutes, options.seed, options.rate, options.start, options.compile)
    model, done = train(stream, plan, lambda m: export(m, options.out))
    seconds = time.monotonic() - start
    round_to_bf16(model)
    export(model, options.out)
    sample = torch.from_numpy(stream[: CONTEXT_TOKENS // 4]).unsqueeze(0)
    metrics = {
        **held_out_loss(model, tokenizer, corpus),
        "training_loss_nats": done.loss,
        "reload_max_logit_difference": reload_difference(model, options.out, sample),
        "steps": done.steps,
        "tokens_per_early_step": SHORT[0] * SHORT[1],
        "tokens_per_late_step": CONTEXT_TOKENS,
        "tokens_seen": done.tokens,
        "tokens_per_second": round(done.tokens / seconds),
        "wall_minutes": round(seconds / 60, 1),
        "peak_learning_rate": options.rate,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "files": len(texts),
        "corpus_tokens": len(stream),
        "corpus_sha256": corpus.digest(),
        **run_facts("code_lm"),
        "earlier": earlier_runs(options.start),
    }
    held_out = {source.name: source.sha256 for source in corpus.held_out}
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (options.out / "heldout.json").write_text(json.dumps(held_out, indent=2) + "\n")
    print(json.dumps(metrics))  # noqa: T201


if __name__ == "__main__":
    main()
