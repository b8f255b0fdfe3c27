"""From logits to a token: greedy, or drawn from the nucleus, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from prefill_wire.status import StatusCode

from prefill_cloud.errors import error_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Temperature 0 is greedy. `top_p` keeps the smallest set of tokens with that probability.

    `seed` None draws anew every time; raises `InvalidRequestError` for values out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        wrong = ""
        if not 0.0 <= self.temperature <= 100.0:
            wrong = f"temperature is {self.temperature}, not 0 to 100."
        elif not 0.0 < self.top_p <= 1.0:
            wrong = f"top_p is {self.top_p}, not above 0 and up to 1."
        elif self.seed is not None and self.seed < 0:
            wrong = f"seed is {self.seed}, not 0 or more."
        if wrong:
            raise error_for(StatusCode.MALFORMED_REQUEST, wrong)


class Sampler:
    """Chooses one sequence's tokens; its randomness is its own."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))

    def choose(self, logits: np.ndarray) -> int:
        """A token id for logits `[vocab]`."""
        if self._sampling.temperature == 0.0:
            return int(logits.argmax())
        probabilities = _probabilities(logits, self._sampling.temperature)
        order = np.argsort(-probabilities, kind="stable")  # ties keep the vocabulary's order
        cumulative = np.cumsum(probabilities[order])
        kept = int(np.searchsorted(cumulative, self._sampling.top_p)) + 1
        kept = min(kept, len(order))
        point = self._random.random() * cumulative[kept - 1]
        chosen = min(int(np.searchsorted(cumulative, point, side="right")), kept - 1)
        return int(order[chosen])


def _probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max())
    return np.asarray(exponentials / exponentials.sum())
