"""The comparison that every exactness test uses: our handoff between two engines, transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefill_engine.engine import StepEngine
from prefill_kernels import attention, products, rows
from prefill_kernels.kda import fast, layer
from prefill_kernels.native import Native
from prefill_wire.tensors import TensorKind
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

sys.path.insert(0, str(Path(__file__).parent))

NEW_TOKENS = 16
TOLERANCE = 1e-4
ORACLE_STEP_TOKENS = 2_048
State = dict[tuple[int, TensorKind], np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """Whether the greedy tokens are equal, and the largest difference of any logit."""

    tokens_equal: bool
    largest: float

    @property
    def exact(self) -> bool:
        return self.tokens_equal and self.largest <= TOLERANCE


class Handoff:
    """Prefill in one engine to N-1, move the state as arrays, decode in another engine."""

    def __init__(self, folder: Path, profile: str = "fp32") -> None:
        self.folder = folder
        self.producer = StepEngine.load(folder, profile=profile)
        self.consumer = StepEngine.load(folder, profile=profile)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def prompt(self, seed: int, length: int) -> np.ndarray:
        return np.random.default_rng(seed + length).integers(0, self.producer.vocab_size, length)

    def fresh_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def oracle(self, tokens: np.ndarray, count: int = NEW_TOKENS) -> tuple[list[int], np.ndarray]:
        """transformers alone: greedy tokens and the logits of each."""
        cache = self.fresh_cache()
        portions = list(torch.split(torch.from_numpy(tokens)[None], ORACLE_STEP_TOKENS, dim=1))
        chosen: list[int] = []
        logits = []
        for _ in range(count):
            for ids in portions:
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits.append(out.logits[0, -1].numpy())
            chosen.append(int(logits[-1].argmax()))
            portions = [torch.tensor([[chosen[-1]]])]
        return chosen, np.array(logits)

    def prefill(self, tokens: np.ndarray, until: int) -> State:
        """The state over `until` tokens, put together from its pieces."""
        handle = self.producer.open(tokens)
        specs = self.producer.schema.tensors(until)
        state = {s.key: np.zeros(s.shape, s.dtype.numpy_name) for s in specs}
        for piece in self.producer.prefill(handle, until):
            spec, whole = piece.spec, state[piece.spec.key]
            grows = spec.kind is TensorKind.LATENT_KV
            (whole[spec.token_start : spec.token_end] if grows else whole)[...] = piece.array
        self.producer.close(handle)
        return state

    def decode(self, state: State, covered: int, token: int) -> tuple[list[int], np.ndarray]:
        """Greedy tokens and their logits from a state over `covered` tokens, `token` first."""
        handle = self.consumer.load_state(covered, state, covered + NEW_TOKENS + 2)
        chosen: list[int] = []
        logits = []
        for _ in range(NEW_TOKENS):
            logits.append(self.consumer.decode_step(handle, token))
            token = int(logits[-1].argmax())
            chosen.append(token)
        self.consumer.close(handle)
        return chosen, np.array(logits)

    def compare(
        self,
        tokens: np.ndarray,
        *,
        until: int | None = None,
        spoil: Callable[[State], None] | None = None,
    ) -> Outcome:
        """Hand over at N-1, or wrongly at `until`, or with the state spoilt on its way."""
        covered = len(tokens) - 1 if until is None else until
        state = self.prefill(tokens, covered)
        if spoil is not None:
            spoil(state)
        got, logits = self.decode(state, covered, int(tokens[-1]))
        wanted, wanted_logits = self.oracle(tokens)
        return Outcome(got == wanted, float(np.abs(logits - wanted_logits).max()))


def zeroed_layer(state: State) -> None:
    next(a for (_, kind), a in state.items() if kind is TensorKind.RECURRENT).fill(0)


def dropped_chunk(state: State) -> None:
    next(a for (_, kind), a in state.items() if kind is TensorKind.LATENT_KV)[100:150] = 0


WRONG_STATES: dict[str, Callable[[int], dict[str, Any]]] = {
    "a zeroed layer": lambda length: {"spoil": zeroed_layer},
    "a dropped chunk": lambda length: {"spoil": dropped_chunk},
    "a state advanced to N": lambda length: {"until": length},
}


@pytest.fixture(params=list(WRONG_STATES))
def wrong_state(request: pytest.FixtureRequest) -> Callable[[int], dict[str, Any]]:
    """Options of `compare` that make a state wrong, for a prompt of that many tokens."""
    return WRONG_STATES[request.param]


@pytest.fixture
def eager_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to do without native kernels for the rest of a test, as where no compiler is."""

    def turn_off() -> None:
        for module in (attention, fast, layer, products, rows):
            monkeypatch.setattr(module, "native", lambda: Native(None, "switched off by a test"))

    return turn_off


@pytest.fixture(scope="session")
def handoff_type() -> type[Handoff]:
    return Handoff
