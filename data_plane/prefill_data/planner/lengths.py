"""Workloads as weighted prompt lengths: log-normal, histogram, or the prompts of a trace.

Lengths are *uncached* tokens, what somebody has to prefill (the paper's L).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from prefill_data.planner.curves import Floats
from prefill_data.planner.errors import InvalidInputError, require_positive

MAX_CELLS = 4096


@dataclass(frozen=True, eq=False)
class Lengths:
    """A length distribution on atoms.

    `tokens [n]` ascending, `weights [n]` positive with sum 1; `mean_total_tokens` counts cached
    tokens too, `mean_output_tokens` is L_out of eq. 5. `block_hit_fraction` is a trace's share of
    blocks that an infinite cache holds, None where no trace was replayed.
    """

    tokens: Floats
    weights: Floats
    mean_total_tokens: float
    mean_output_tokens: float
    block_hit_fraction: float | None = None

    @property
    def mean_tokens(self) -> float:
        return float(self.tokens @ self.weights)

    @property
    def longest_tokens(self) -> float:
        return float(self.tokens[-1])

    def with_hit_fraction(self, hit_fraction: float) -> "Lengths":
        """The same prompts when this fraction of each is already cached; at least 1 token is not.

        Raises InvalidInputError outside [0, 1).
        """
        if not 0 <= hit_fraction < 1:
            raise InvalidInputError(
                "workload.cache_hit_fraction",
                f"{hit_fraction:g} is outside [0, 1)",
                "give the cached share of a prompt as a fraction, 36.6% as 0.366",
            )
        return replace(self, tokens=np.maximum(1.0, self.tokens * (1 - hit_fraction)))


def from_samples(uncached: Floats, total: Floats, output: Floats) -> Lengths:
    """The empirical distribution of requests, one weight each; all arrays `[n]` in tokens."""
    if not len(uncached) or float(np.min(uncached)) < 1:
        raise InvalidInputError(
            "workload", "no request, or one without a token", "every request prefills >= 1 token"
        )
    require_positive("workload", float(np.mean(output)), "requests decode something on average")
    tokens, counts = np.unique(uncached, return_counts=True)
    return Lengths(
        tokens.astype(np.float64),
        counts / counts.sum(),
        mean_total_tokens=float(np.mean(total)),
        mean_output_tokens=float(np.mean(output)),
    )


def histogram(points: list[tuple[float, float]], output_tokens: float) -> Lengths:
    """(tokens, weight) pairs; weights need not sum to 1. Raises InvalidInputError on bad pairs."""
    if not points:
        raise InvalidInputError("workload.points", "empty", "give [tokens, weight] pairs")
    for index, (length, weight) in enumerate(points):
        require_positive(f"workload.points[{index}]", length, "lengths start at 1 token")
        require_positive(f"workload.points[{index}]", weight, "leave lengths without weight out")
    require_positive("workload.output_tokens", output_tokens, "every request decodes something")
    ordered = np.array(sorted(points), dtype=np.float64)
    tokens, inverse = np.unique(ordered[:, 0], return_inverse=True)
    weights = np.bincount(inverse, weights=ordered[:, 1])
    weights = weights / weights.sum()
    return Lengths(tokens, weights, float(tokens @ weights), output_tokens)


@dataclass(frozen=True)
class LogNormal:
    """log L ~ N(mu, sigma^2), truncated to [first_tokens, last_tokens]."""

    mu: float
    sigma: float
    first_tokens: float
    last_tokens: float

    def __post_init__(self) -> None:
        require_positive("workload.sigma", self.sigma, "a log-normal has a positive sigma")
        require_positive("workload.min_tokens", self.first_tokens, "lengths start at 1 token")
        if not self.first_tokens < self.last_tokens < math.inf:
            raise InvalidInputError(
                "workload.max_tokens",
                f"{self.last_tokens:g} is not above min_tokens {self.first_tokens:g}",
                "give the truncation as min_tokens < max_tokens",
            )
        mass = _normal(self._z(self.last_tokens)) - _normal(self._z(self.first_tokens))
        if not mass > 1e-6:
            raise InvalidInputError(
                "workload.mu",
                f"mu {self.mu:g}, sigma {self.sigma:g} leave {mass:.1e} of the prompts in range",
                "mu is the mean of ln(tokens): about 9.9 for a median of 20,000 tokens",
            )

    def _z(self, tokens: float) -> float:
        return (math.log(tokens) - self.mu) / self.sigma

    def lengths(self, output_tokens: float) -> Lengths:
        """Cells of equal width, each an atom at its exact conditional mean with its exact mass.

        p = P(L > t) and E[L | L > t] are therefore exact wherever t is a cell's edge.
        """
        require_positive("workload.output_tokens", output_tokens, "every request decodes something")
        width = max(50.0, 50.0 * math.ceil(self.last_tokens / MAX_CELLS / 50.0))
        start = width * math.floor(self.first_tokens / width + 1)
        edges = np.arange(start, self.last_tokens, width)
        z = [self._z(e) for e in (self.first_tokens, *edges.tolist(), self.last_tokens)]
        mass = np.diff([_normal(v) for v in z])
        scale = math.exp(self.mu + self.sigma**2 / 2)
        first_moment = scale * np.diff([_normal(v - self.sigma) for v in z])
        kept = mass > 1e-15
        tokens, weights = first_moment[kept] / mass[kept], mass[kept] / mass[kept].sum()
        return Lengths(tokens, weights, float(tokens @ weights), output_tokens)


def _normal(z: float) -> float:
    """The standard normal distribution function; erfc keeps the lower tail's digits."""
    return 0.5 * math.erfc(-z / math.sqrt(2))
