"""Waiting in a pool of k equal machines, Poisson arrivals, first come first served (M/G/k).

The service times are known exactly (a curve of known lengths), so instead of two moments the whole
distribution is used, in the way of Tijms, van Hoorn and Federgruen (1981):

- an arrival waits with the probability of Erlang's C formula for the same load;
- a waiting arrival first waits for the next of k busy machines, the least of k equilibrium
  residual services, then as in an M/G/1 queue whose service is S/k (Pollaczek-Khinchine: a
  geometric sum of residuals of S/k).

Exact for M/G/1 and for M/M/k; against simulation of the paper's pools the tests give the error.
The mean of the Allen-Cunneen form is beside it for comparison: it has no P90.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from prefill_data.planner.curves import Floats
from prefill_data.planner.errors import InfeasibleError, InvalidInputError

CELLS = 8192
NEVER = 1e-9
SPAN_DEVIATIONS = 18.0  # an exponential tail is cut at e^-18


@dataclass(frozen=True, eq=False)
class Service:
    """Service seconds as atoms: `seconds [n]`, `weights [n]` with sum 1."""

    seconds: Floats
    weights: Floats

    def __post_init__(self) -> None:
        if not len(self.seconds) or not float(np.min(self.seconds)) > 0:
            raise InvalidInputError("service", "a service time of 0 or none", "seconds above 0")

    def moment(self, order: int) -> float:
        """E[S^order] in seconds^order."""
        return float(self.weights @ self.seconds**order)

    @property
    def squared_variation(self) -> float:
        """c_s^2 = Var(S) / E[S]^2."""
        return max(0.0, self.moment(2) / self.moment(1) ** 2 - 1)


@dataclass(frozen=True, eq=False)
class WaitingTime:
    """A waiting time on a lattice: `masses [c]` at 0, step, 2 step, ...; `wait_probability`."""

    step_seconds: float
    masses: Floats
    wait_probability: float

    @cached_property
    def mean_seconds(self) -> float:
        return float(self.masses @ np.arange(len(self.masses))) * self.step_seconds

    def cdf(self, seconds: Floats) -> Floats:
        """P(W <= seconds), same shape. A lattice mass stands for the half steps around it."""
        return np.interp(seconds, *self._table, left=0.0, right=1.0)

    @cached_property
    def _table(self) -> tuple[Floats, Floats]:
        places = np.concatenate(([0.0], (np.arange(len(self.masses)) + 0.5) * self.step_seconds))
        return places, np.concatenate(([1 - self.wait_probability], np.cumsum(self.masses)))

    def times(self, factor: float) -> "WaitingTime":
        """As likely to wait, but this many times as long."""
        return replace(self, step_seconds=self.step_seconds * factor)

    def plus(self, other: "WaitingTime") -> "WaitingTime":
        """The sum of two independent waits."""
        if other.wait_probability < NEVER:
            return self
        if self.wait_probability < NEVER:
            return other
        coarse = max(self.step_seconds, other.step_seconds)
        first, second = self._on(coarse), other._on(coarse)
        masses = np.clip(_convolve(first, second), 0.0, None)
        idle = (1 - self.wait_probability) * (1 - other.wait_probability)
        return WaitingTime(coarse, masses / masses.sum(), 1 - idle)

    def _on(self, step_seconds: float) -> Floats:
        """The same masses on a coarser lattice, each split so that the mean stays."""
        places = np.arange(len(self.masses)) * (self.step_seconds / step_seconds)
        below = np.floor(places).astype(np.int64)
        rest = places - below
        size = int(below[-1]) + 2
        stay = np.bincount(below, self.masses * (1 - rest), size)
        return np.asarray(stay + np.bincount(below + 1, self.masses * rest, size), np.float64)


NO_WAIT = WaitingTime(1.0, np.array([1.0]), 0.0)


def erlang_c(load: float, servers: int) -> float:
    """P(wait) in M/M/k, `load` = arrival rate * mean service < servers (stable recursion)."""
    blocking = 1.0
    for busy in range(1, servers + 1):
        blocking = load * blocking / (busy + load * blocking)
    utilisation = load / servers
    return blocking / (1 - utilisation * (1 - blocking))


def allen_cunneen_seconds(service: Service, rate_rps: float, servers: int) -> float:
    """Mean wait by Allen-Cunneen: Erlang's C times (1 + c^2)/2 times S/(k (1 - rho))."""
    mean = service.moment(1)
    utilisation = rate_rps * mean / servers
    exponential = erlang_c(rate_rps * mean, servers) * mean / (servers * (1 - utilisation))
    return exponential * (1 + service.squared_variation) / 2


def smoothing(service: Service, rate_rps: float, servers: int) -> float:
    """How far a pool has evened out what leaves it: 0 as random as it came, 1 as its service.

    Whitt (1983): rho^2 / sqrt(k), so that the gaps between departures have the squared variation
    1 + smoothing * (c_s^2 - 1) for Poisson arrivals; Kingman's form tells the next queue's wait.
    """
    return (rate_rps * service.moment(1) / servers) ** 2 / math.sqrt(servers)


def waiting_time(service: Service, rate_rps: float, servers: int) -> WaitingTime:
    """The waiting time of M/G/k FCFS as stated above.

    Raises InfeasibleError when the pool cannot keep up (utilisation of 1 or more).
    """
    if rate_rps <= 0:
        return NO_WAIT
    load = rate_rps * service.moment(1)
    utilisation = load / servers if servers else math.inf
    if utilisation >= 1 - 1e-9:
        raise InfeasibleError(
            "rate_rps",
            f"{rate_rps:.4g}/s fills {servers} machines to {utilisation:.1%}, the limit is 100%",
            "lower the rate or add machines",
            shortfall=utilisation - 1,
        )
    residual = _Residual(service, servers)
    step = residual.span(utilisation) / CELLS
    grid = step * np.arange(CELLS + 2, dtype=np.float64)
    single = _masses(residual.tail(grid), step)
    first = _masses(residual.tail(grid, whole=True) ** servers, step)
    queue = (1 - utilisation) / (1 - utilisation * np.fft.rfft(single, 2 * CELLS))
    waiting = np.fft.irfft(queue * np.fft.rfft(first, 2 * CELLS), 2 * CELLS)[:CELLS]
    probability = erlang_c(load, servers)
    masses = probability * np.clip(waiting, 0.0, None) / waiting.sum()
    masses[0] += 1 - probability
    return WaitingTime(step, masses, probability)


class _Residual:
    """The equilibrium residual of S/k (or of S itself): what is left of a running service."""

    def __init__(self, service: Service, servers: int) -> None:
        order = np.argsort(service.seconds)
        self._servers = servers
        self._seconds = service.seconds[order]
        weights = service.weights[order]
        self._mass = np.concatenate(([0.0], np.cumsum(weights)))
        self._sum = np.concatenate(([0.0], np.cumsum(weights * self._seconds)))
        self._moments = [service.moment(order) for order in (1, 2, 3)]

    def tail(self, seconds: Floats, *, whole: bool = False) -> Floats:
        """P(residual > seconds): of S/k, or with `whole` of S.  1 - E[min(S, x)] / E[S]."""
        x = seconds if whole else seconds * self._servers
        cut = np.searchsorted(self._seconds, x, side="right")
        covered = self._sum[cut] + x * (1 - self._mass[cut])
        return np.asarray(np.clip(1 - covered / self._moments[0], 0.0, 1.0), np.float64)

    def span(self, utilisation: float) -> float:
        """Seconds after which the waiting time has no mass worth a cell."""
        first, second, third = (m / self._servers**n for n, m in enumerate(self._moments, start=1))
        rate = utilisation / first
        mean = rate * second / (2 * (1 - utilisation))
        variance = rate * third / (3 * (1 - utilisation)) + mean**2
        longest = float(self._seconds[-1]) / self._servers
        return float(mean + SPAN_DEVIATIONS * math.sqrt(variance) + 2 * longest)


def _masses(tail: Floats, step: float) -> Floats:
    """Lattice masses `[c]` of a distribution with this tail `[c+2]`, keeping its mean.

    Each piece of the distribution is split between its two neighbours: second differences of the
    integrated tail.
    """
    integrated = np.concatenate(([0.0], np.cumsum((tail[1:] + tail[:-1]) / 2 * step)))
    slopes = np.diff(integrated) / step
    return np.concatenate(([1 - slopes[0]], -np.diff(slopes)))


def _convolve(first: Floats, second: Floats) -> Floats:
    size = len(first) + len(second) - 1
    padded = 1 << (size - 1).bit_length()
    product = np.fft.rfft(first, padded) * np.fft.rfft(second, padded)
    return np.asarray(np.fft.irfft(product, padded)[:size], np.float64)
