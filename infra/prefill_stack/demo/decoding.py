"""Greedy decoding on our engine from a verified state, keeping the logits for the comparison."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefill_engine.engine import StepEngine
from prefill_wire.tensors import TensorKind

Tensors = Mapping[tuple[int, TensorKind], np.ndarray]


@dataclass(frozen=True)
class Continuation:
    """Greedy tokens and the logits [steps, vocab] fp32 they were chosen from."""

    tokens: list[int]
    logits: NDArray[np.float32]
    load_seconds: float = 0.0
    first_token_seconds: float = 0.0


def continue_greedily(
    engine: StepEngine, tensors: Tensors, prompt: Sequence[int], count: int
) -> Continuation:
    """Load a state of N-1 tokens, recompute token N and choose `count` tokens greedily."""
    began = time.perf_counter()
    handle = engine.load_state(len(prompt) - 1, tensors, len(prompt) + count)
    loaded = first = time.perf_counter()
    try:
        token, tokens, rows = int(prompt[-1]), [], []
        for step in range(count):
            logits = engine.decode_step(handle, token)
            first = first if step else time.perf_counter()
            token = int(logits.argmax())
            tokens.append(token)
            rows.append(np.array(logits, dtype=np.float32))
    finally:
        engine.close(handle)
    return Continuation(tokens, np.stack(rows), loaded - began, first - loaded)


def forced_predictions(
    engine: StepEngine, tensors: Tensors, prompt: Sequence[int], rest: Sequence[int]
) -> list[int]:
    """Best next token after the prompt and after every given token of `rest` (teacher forcing)."""
    handle = engine.load_state(len(prompt) - 1, tensors, len(prompt) + len(rest) + 1)
    try:
        fed = [int(prompt[-1]), *(int(token) for token in rest)]
        return [int(engine.decode_step(handle, token).argmax()) for token in fed]
    finally:
        engine.close(handle)


def given_predictions(
    engine: StepEngine, tensors: Tensors, prompt: Sequence[int], rest: Sequence[int]
) -> NDArray[np.float32]:
    """Logits `[n, vocab]` after the prompt and after every token of `rest`, in one step."""
    handle = engine.load_state(len(prompt) - 1, tensors, len(prompt) + len(rest))
    try:
        return engine.score(handle, [int(prompt[-1]), *rest])
    finally:
        engine.close(handle)


def without_recurrent_state(tensors: Tensors) -> Tensors:
    """The same state with the linear-attention memory zeroed: the twin of the recall check."""
    return {
        key: np.zeros_like(value) if key[1] == TensorKind.RECURRENT else value
        for key, value in tensors.items()
    }
