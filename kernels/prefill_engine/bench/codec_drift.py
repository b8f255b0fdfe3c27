"""How far a decode drifts that began from a coded state: real decode steps, the same tokens.

A recurrent state forgets by its decay, so what a codec did to it fades; what it did to a cache row
stays as long as the row is read, and rows that follow are computed from what was read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from prefill_wire.tensors import TensorKind

from prefill_engine.bench.codec_quality import (
    PROMPT_TOKENS,
    Choice,
    CodeText,
    State,
    divergence,
    through,
)
from prefill_engine.engine import StepEngine

STEPS, SEQUENCES = 1_000, 2
LAST = 100  # one step's KL is one draw; the mean of these is told beside it


@dataclass(frozen=True)
class Drift:
    """Means over sequences: KL in nats of the last step and of the last 100; the norm of the
    recurrent states' error over theirs, as they arrived and after the last step.
    """

    steps: int
    sequences: int
    kl_at_last_step: float
    kl_of_last_100_steps: float
    state_relative_error_arrived: float
    state_relative_error_at_last_step: float


@dataclass(frozen=True)
class _Decoded:
    logits: np.ndarray
    states: list[np.ndarray]


class Decodes:
    """Decodes from the true states, to hold others against."""

    def __init__(self, text: CodeText) -> None:
        self._engine = text.engine
        self._cases = [(state, rest) for state, rest, _ in text.cases[:SEQUENCES]]
        self._true = [_decode(self._engine, state, rest) for state, rest in self._cases]

    def drift(self, choice: Choice) -> Drift:
        """Of decodes that begin from states which went through these codecs."""
        rows = []
        for (state, rest), true in zip(self._cases, self._true, strict=True):
            arrived = through(state, self._engine.schema, choice)
            found = _decode(self._engine, arrived, rest)
            kl = divergence(true.logits, found.logits)
            first = _relative(_recurrent(state), _recurrent(arrived))
            rows.append((kl[-1], kl[-LAST:].mean(), first, _relative(true.states, found.states)))
        return Drift(STEPS, len(rows), *(float(mean) for mean in np.mean(rows, axis=0)))


def _decode(engine: StepEngine, state: State, rest: np.ndarray) -> _Decoded:
    handle = engine.load_state(PROMPT_TOKENS, state, PROMPT_TOKENS + STEPS)
    logits = [engine.decode_step(handle, int(token)) for token in rest[:STEPS]]
    last = {piece.spec.key: piece.array for piece in engine.snapshot(handle)}
    engine.close(handle)
    return _Decoded(np.array(logits[-LAST:]), _recurrent(last))


def _recurrent(state: State) -> list[np.ndarray]:
    return [array for (_, kind), array in state.items() if kind is TensorKind.RECURRENT]


def _relative(true: list[np.ndarray], found: list[np.ndarray]) -> float:
    error = sum(float(((a - b) ** 2).sum()) for a, b in zip(true, found, strict=True))
    return float(np.sqrt(error / sum(float((a**2).sum()) for a in true)))
