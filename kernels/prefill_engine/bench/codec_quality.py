"""What a codec does to answers: KL and top-1 on held-out code, recall on the MQAR model.

The KV part comes from a bf16 cache, the recurrent part from fp32. A state goes through a codec
once, at the handoff; what follows is compared with what follows from the state as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prefill_kernels.pack import ElementType, codec
from prefill_kernels.pack.policy import StatePart
from prefill_wire.tensors import StateSchema, TensorKind

from prefill_engine.engine import StepEngine
from prefill_engine.tokenizer import load_tokenizer
from prefill_engine.training.corpus import read_corpus
from prefill_engine.training.mqar import RecallBatch, recall_batch

State = dict[tuple[int, TensorKind], np.ndarray]
Choice = Callable[[StatePart], str]
PROMPT_TOKENS, SCORED_TOKENS = 1_024, 1_024
PAIRS, SEQUENCES = 32, 256
SEED = 1_000_000_007
PARTS: Mapping[TensorKind, StatePart] = {
    TensorKind.LATENT_KV: StatePart.KV,
    TensorKind.KV: StatePart.KV,
    TensorKind.RECURRENT: StatePart.RECURRENT,
    TensorKind.CONV: StatePart.CONV,
}


@dataclass(frozen=True)
class Quality:
    """Mean KL in nats a position, its standard error, and agreement of the best token; recall and
    changed answers.
    """

    kl: float
    kl_standard_error: float
    top1_agreement: float
    mqar_recall: float
    mqar_answers_changed_fraction: float


def through(state: State, schema: StateSchema, choice: Choice) -> State:
    """The state as it arrives on the other side."""
    arrived: State = {}
    for layer in schema.layers:
        key, element = (layer.layer, layer.kind), ElementType(layer.dtype)
        code = codec(choice(PARTS[layer.kind]))
        arrived[key] = np.empty_like(state[key])
        code.decode(code.encode(state[key], element).payload, element, arrived[key])
    return arrived


def prefilled(engine: StepEngine, tokens: np.ndarray) -> State:
    """The whole state over these tokens (one step at most)."""
    handle = engine.open(tokens)
    state = {piece.spec.key: piece.array for piece in engine.prefill(handle, len(tokens))}
    engine.close(handle)
    return state


def followed(engine: StepEngine, state: State, covered: int, rest: np.ndarray) -> np.ndarray:
    """Logits `[n, vocab]` after each token of `rest`, from a state over `covered` tokens."""
    handle = engine.load_state(covered, state, covered + len(rest))
    logits = engine.score(handle, rest)
    engine.close(handle)
    return logits


class CodeText:
    """Windows of the held-out files: a prompt each, and the tokens that follow it."""

    def __init__(self, folder: Path, positions: int) -> None:
        self.engine = StepEngine.load(folder, profile="bf16-cache")
        windows = list(self._windows(load_tokenizer(folder).encode))
        chosen = windows[: -(-positions // SCORED_TOKENS)]
        self.cases = []
        for prompt, rest in chosen:
            state = prefilled(self.engine, prompt)
            self.cases.append((state, rest, followed(self.engine, state, len(prompt), rest)))

    def _windows(
        self, encode: Callable[[str], list[int]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = PROMPT_TOKENS + SCORED_TOKENS
        for source in read_corpus().held_out:
            ids = np.array(encode(source.text))
            for at in range(0, len(ids) - size + 1, SCORED_TOKENS):
                window = ids[at : at + size]
                yield window[:PROMPT_TOKENS], window[PROMPT_TOKENS:]

    @property
    def positions(self) -> int:
        """How many predictions are compared."""
        return sum(len(rest) for _, rest, _ in self.cases)

    def compare(self, choice: Choice) -> tuple[float, float, float]:
        """Mean KL of the coded state's predictions from the true state's, and top-1 agreement."""
        found, agreed = [], 0
        for state, rest, wanted in self.cases:
            got = self._predicted(state, rest, wanted, choice)
            found.append(divergence(wanted, got))
            agreed += int((wanted.argmax(-1) == got.argmax(-1)).sum())
        each = np.concatenate(found)
        error = float(each.std() / np.sqrt(len(each)))
        return float(each.mean()), error, agreed / self.positions

    def _predicted(
        self, state: State, rest: np.ndarray, wanted: np.ndarray, choice: Choice
    ) -> np.ndarray:
        arrived = through(state, self.engine.schema, choice)
        if all(arrived[key].tobytes() == state[key].tobytes() for key in state):
            return wanted  # the same bits: these predictions are made already
        return followed(self.engine, arrived, PROMPT_TOKENS, rest)


def divergence(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """KL(wanted | got) of each row of logits, in float64."""
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (wanted, got))
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class Recall:
    """Sequences of pairs prefilled once; their queries answered from the state that arrives."""

    def __init__(self, folder: Path) -> None:
        self.engine = StepEngine.load(folder, profile="bf16-cache")
        self.batch: RecallBatch = recall_batch(SEED, SEQUENCES, PAIRS)
        prompt = self.batch.prompt_tokens
        self.states = [prefilled(self.engine, row[:prompt]) for row in self.batch.tokens]
        self.answers = self.answered(lambda part: "raw")

    def answered(self, choice: Choice) -> np.ndarray:
        """The model's answers `[sequences, pairs]`."""
        prompt = self.batch.prompt_tokens
        found = []
        for row, state in zip(self.batch.tokens, self.states, strict=True):
            arrived = through(state, self.engine.schema, choice)
            logits = followed(self.engine, arrived, prompt, row[prompt:])
            found.append(logits[self.batch.query_positions - prompt].argmax(-1))
        return np.array(found)

    def compare(self, choice: Choice) -> tuple[float, float]:
        """Recall, and the fraction of answers that differ from those of the state as it was."""
        answers = self.answered(choice)
        recalled = float((answers == self.batch.answers).mean())
        return recalled, float((answers != self.answers).mean())


def quality(text: CodeText, recall: Recall, choice: Choice) -> Quality:
    """Both comparisons for one choice of codecs."""
    return Quality(*text.compare(choice), *recall.compare(choice))
