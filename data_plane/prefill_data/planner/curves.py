"""Measured or fitted curves of one machine: seconds and bytes against tokens, step against batch.

Interpolation is stated, never guessed: piecewise linear between points, the first segment's slope
below them, and a refusal beyond the last one, because attention grows faster than any line.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefill_data.planner.errors import (
    InfeasibleError,
    InvalidInputError,
    MissingProfilePointError,
    require_positive,
)

Floats = NDArray[np.float64]


class Curve(Protocol):
    """A positive, non-decreasing function of a token count."""

    @property
    def last_tokens(self) -> float:
        """The greatest length at which the curve is known."""

    def at(self, tokens: Floats) -> Floats:
        """Values at these token counts, same shape; MissingProfilePointError beyond the last."""


def refuse_beyond(field: str, tokens: Floats, last_tokens: float) -> None:
    """Raise MissingProfilePointError when a length lies beyond what was measured."""
    longest = float(np.max(tokens, initial=0.0))
    if longest > last_tokens * (1 + 1e-9):
        raise MissingProfilePointError(
            field,
            f"no point at or beyond {longest:,.0f} tokens; the last is {last_tokens:,.0f}",
            "measure the profile up to the workload's longest prompt, or cap the workload there",
        )


@dataclass(frozen=True)
class TableCurve:
    """Piecewise linear through measured points; a straight line through nothing it did not see."""

    field: str
    tokens: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 or len(self.tokens) != len(self.values):
            raise MissingProfilePointError(
                self.field,
                f"{len(self.tokens)} points, and a table needs at least 2",
                "measure at least the shortest and the longest prompt of the workload",
            )
        for index, (tokens, value) in enumerate(zip(self.tokens, self.values, strict=True)):
            place = f"{self.field}[{index}]"
            require_positive(place, tokens, "token counts start at 1")
            require_positive(place, value, "give a measured, positive value")
            if index and tokens <= self.tokens[index - 1]:
                raise InvalidInputError(
                    place,
                    f"{tokens:g} tokens do not follow {self.tokens[index - 1]:g}",
                    "sort the points by tokens, each length once",
                )
            if index and value < self.values[index - 1]:
                raise InvalidInputError(
                    place,
                    f"{value:g} at {tokens:g} tokens is below {self.values[index - 1]:g} before it",
                    "a longer prompt cannot cost less: measure again and keep the median",
                )

    @property
    def last_tokens(self) -> float:
        return self.tokens[-1]

    def at(self, tokens: Floats) -> Floats:
        refuse_beyond(self.field, tokens, self.last_tokens)
        first, value = self.tokens[0], self.values[0]
        slope = (self.values[1] - value) / (self.tokens[1] - first)
        # Never below the line to the origin: a steep first segment must not reach zero seconds.
        below = np.maximum(value + slope * (tokens - first), value * tokens / first)
        return np.where(tokens < first, below, np.interp(tokens, self.tokens, self.values))


@dataclass(frozen=True)
class PolynomialCurve:
    """A fitted curve, c0 + c1 l + c2 l^2 + ..., valid up to `last_tokens`."""

    field: str
    coefficients: tuple[float, ...]
    last_tokens: float

    def __post_init__(self) -> None:
        require_positive(f"{self.field}.last_tokens", self.last_tokens, "say how far the fit holds")
        for index, coefficient in enumerate(self.coefficients):
            if not 0 <= coefficient < float("inf"):
                raise InvalidInputError(
                    f"{self.field}.coefficients[{index}]",
                    f"{coefficient:g} is below 0 or not finite, so the curve may fall",
                    "fit with non-negative coefficients, or give the measured table",
                )
        if not any(self.coefficients):
            raise InvalidInputError(
                f"{self.field}.coefficients", "all of them are 0", "give the fitted coefficients"
            )

    def at(self, tokens: Floats) -> Floats:
        refuse_beyond(self.field, tokens, self.last_tokens)
        values = np.polynomial.polynomial.polyval(tokens, self.coefficients)
        return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class ScaledCurve:
    """Another curve times a factor: a faster machine, or a smaller state."""

    curve: Curve
    factor: float

    @property
    def last_tokens(self) -> float:
        return self.curve.last_tokens

    def at(self, tokens: Floats) -> Floats:
        return self.factor * self.curve.at(tokens)


@dataclass(frozen=True)
class DecodeCurve:
    """Decode step seconds against batch, as measured; between two batches the larger one's step."""

    field: str
    batches: tuple[int, ...]
    step_seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.batches or len(self.batches) != len(self.step_seconds):
            raise MissingProfilePointError(
                self.field, "no decode step was measured", "measure at least one batch size"
            )
        for index, (batch, seconds) in enumerate(zip(self.batches, self.step_seconds, strict=True)):
            place = f"{self.field}[{index}]"
            require_positive(place, batch, "a batch holds at least 1 sequence")
            require_positive(place, seconds, "give a measured, positive step time")
            if index and (batch, seconds) < (self.batches[index - 1], self.step_seconds[index - 1]):
                raise InvalidInputError(
                    place, "batches or steps fall", "sort by batch; a larger batch is not faster"
                )

    def slots(self, tokens_per_second: float, field: str) -> tuple[int, float]:
        """The batch with the most tokens/s among those that keep the SLO, and its step seconds.

        Raises InfeasibleError when even the smallest batch is too slow for the SLO.
        """
        limit_seconds = 1 / tokens_per_second * (1 + 1e-9)
        fitting = [
            (batch / seconds, batch, seconds)
            for batch, seconds in zip(self.batches, self.step_seconds, strict=True)
            if seconds <= limit_seconds
        ]
        if not fitting:
            best = 1 / min(self.step_seconds)
            raise InfeasibleError(
                field,
                f"{tokens_per_second:g} tokens/s, and {self.field} reaches {best:.1f} at best",
                "lower the SLO or decode on a faster machine",
                shortfall=tokens_per_second / best - 1,
            )
        _, batch, seconds = max(fitting)
        return batch, seconds
