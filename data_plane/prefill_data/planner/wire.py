"""What a transfer adds to a prefill: the wire as a queue that overlaps with the computing.

Stated approximation: a wire sends states first come first served, each free to flow while it is
computed, so a state is through at max(compute, wait + wire) and then its closing set, which only
exists when the prefill ends. The wait is that of M/G/1 times a factor in Kingman's manner: what
leaves a busy pool comes more evenly than at random, above all because a long state keeps its
machine busy for as long. Of several wires in a row the one with the longest mean wait counts,
because bytes do not stop between them.

Real transfers interleave. Against a wire that sends bytes in the order they are produced the mean
is within 8% and the P90 within 12% up to 85% load (tests/data_plane/planner, nightly).
"""

from dataclasses import dataclass

import numpy as np

from prefill_data.planner.curves import Floats
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.flows import Flow, Resource, Wired
from prefill_data.planner.queueing import NEVER, Service, WaitingTime, waiting_time

# Probability levels at which a wait on the wire is cut into pieces; finer in the tail.
LEVELS = np.concatenate((np.linspace(0, 0.9, 19), 1 - np.geomspace(0.09, 1e-4, 18), [1.0]))
MAX_ATOMS = 2048
MAX_LENGTHS = 512


@dataclass(frozen=True, eq=False)
class Held:
    """A request from its prefill's start to its first token: atoms `[m]` of seconds and weights.

    The means of its parts are kept apart: `prefill_seconds`, `wire_seconds` (exposed), RTT.
    """

    seconds: Floats
    weights: Floats
    prefill_seconds: float
    wire_seconds: float
    rtt_seconds: float


def wire_waits(
    flows: list[Flow], rate_rps: float, smoothed: dict[Resource, float]
) -> dict[Resource, WaitingTime]:
    """The wait at every wire at this rate; `smoothed` says how even each pool makes its output.

    Raises InfeasibleError for a wire that overflows.
    """
    waits = {}
    for resource in {r for flow in flows if flow.wired for r in flow.wired.wires}:
        users = [(f, f.wired) for f in flows if f.wired and resource in f.wired.wires]
        share = sum(flow.share for flow, _ in users)
        service = Service(
            np.concatenate([_wire_seconds(wired, resource) for _, wired in users]),
            np.concatenate([flow.weights * (flow.share / share) for flow, _ in users]),
        )
        evenness = sum(flow.share * smoothed[flow.pool] for flow, _ in users) / share
        compute_seconds = np.concatenate([flow.prefill_seconds for flow, _ in users])
        wait = _wait(resource, service, rate_rps * share)
        waits[resource] = wait.times(_kingman(service, compute_seconds, evenness))
    return waits


def held(flow: Flow, waits: dict[Resource, WaitingTime]) -> Held:
    """The time that one flow's requests are held, with what the wire exposes."""
    prefill = float(flow.weights @ flow.prefill_seconds)
    if flow.wired is None:
        return Held(flow.prefill_seconds, flow.weights, prefill, 0.0, 0.0)
    weights, compute, overlapped, closing = _fewer_lengths(flow, flow.wired)
    wired = flow.wired
    pieces, chances = _pieces(max((waits[r] for r in wired.wires), key=lambda w: w.mean_seconds))
    bytes_per_second = wired.bytes_per_second
    through = np.maximum(compute, pieces[:, None] + overlapped / bytes_per_second)
    seconds = (through + closing / bytes_per_second + wired.rtt_seconds).ravel()
    weights = (chances[:, None] * weights).ravel()
    exposed = float(weights @ seconds) - prefill - wired.rtt_seconds
    seconds, weights = merged(seconds, weights)
    return Held(seconds, weights, prefill, max(0.0, exposed), wired.rtt_seconds)


def _fewer_lengths(flow: Flow, wired: Wired) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights, compute seconds, overlapped and closing bytes over at most MAX_LENGTHS lengths.

    Neighbouring lengths become one at their mean, so that all means stay.
    """
    columns = (flow.prefill_seconds, wired.overlapped_bytes, wired.closing_bytes)
    if len(flow.weights) <= MAX_LENGTHS:
        return flow.weights, *columns
    cells = np.minimum((np.cumsum(flow.weights) * MAX_LENGTHS).astype(np.int64), MAX_LENGTHS - 1)
    firsts = np.flatnonzero(np.diff(cells, prepend=-1))
    weights = np.add.reduceat(flow.weights, firsts)
    compute, overlapped, closing = (
        np.add.reduceat(flow.weights * column, firsts) / weights for column in columns
    )
    return weights, compute, overlapped, closing


def merged(seconds: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """At most MAX_ATOMS atoms with the same mean: neighbours become one at their mean."""
    if len(seconds) <= MAX_ATOMS:
        return seconds, weights
    order = np.argsort(seconds)
    cells = np.minimum((np.cumsum(weights[order]) * MAX_ATOMS).astype(np.int64), MAX_ATOMS - 1)
    mass = np.bincount(cells, weights[order])
    sums = np.bincount(cells, (weights * seconds)[order])
    kept = mass > 0
    return np.asarray(sums[kept] / mass[kept], np.float64), np.asarray(mass[kept], np.float64)


def _wait(resource: Resource, service: Service, rate_rps: float) -> WaitingTime:
    try:
        return waiting_time(service, rate_rps, 1)
    except InfeasibleError as error:
        kind, name = resource
        raise InfeasibleError(
            f"{kind} {name}",
            f"the wire would be {1 + error.shortfall:.1%} full, the limit is 100%",
            "lower the rate, raise the threshold or widen it",
            shortfall=error.shortfall,
        ) from error


def _kingman(service: Service, compute_seconds: Floats, evenness: float) -> float:
    """Wait over that of M/G/1: from random arrivals (1) to machines that are never idle.

    Of a machine that is never idle, the wire sees S bytes every T seconds: what varies is only
    S - T E[S]/E[T], which is little, because long prompts take long.
    """
    mean = service.moment(1)
    pace = mean / float(service.weights @ compute_seconds)
    together = float(service.weights @ (service.seconds - pace * compute_seconds) ** 2) / mean**2
    return 1 - evenness * (1 - together / (1 + service.squared_variation))


def _wire_seconds(wired: Wired, resource: Resource) -> Floats:
    return (wired.overlapped_bytes + wired.closing_bytes) / wired.wires[resource]


def _pieces(wait: WaitingTime) -> tuple[Floats, Floats]:
    """A wait as a few atoms with the same mean: seconds and weights `[m]`."""
    if wait.wait_probability < NEVER:
        return np.zeros(1), np.ones(1)
    total = np.cumsum(wait.masses)
    cells = np.searchsorted(LEVELS, total / total[-1], side="left")
    mass = np.bincount(cells, wait.masses)
    places = np.arange(len(wait.masses)) * wait.step_seconds
    sums = np.bincount(cells, wait.masses * places)
    kept = mass > 0
    return sums[kept] / mass[kept], np.asarray(mass[kept] / mass.sum(), np.float64)
