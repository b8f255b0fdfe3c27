"""Several local clusters: the greatest rate by bisection, each step decided exactly.

At a given rate a cluster does best with the fewest decode machines that carry it and the greatest
threshold that its prefill machines carry: both leave the least demand on machines and wires that
others share. So a rate is feasible if and only if those choices are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prefill_data.planner.assign import balance
from prefill_data.planner.demand import Demand
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.plan import Choice, Plan, Proof, evaluate, offloads_at

BISECTIONS = 50
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _Load:
    """A rate, and the utilisation up to which machines and wires may be filled."""

    rate_rps: float
    ceiling: float = 1.0


def solve_regions(scenario: Scenario, demands: Sequence[Demand]) -> Plan:
    """The best plan of all thresholds and splits, to one part in 10^9 of the rate."""
    _require_falling(demands)
    low, high = 0.0, _first_infeasible(scenario, demands)
    for _ in range(BISECTIONS):
        if high - low <= RELATIVE_TOLERANCE * high:
            break
        middle = (low + high) / 2
        if _choices(scenario, demands, _Load(middle)) is None:
            high = middle
        else:
            low = middle
    plan = evaluate(scenario, demands, _most_even(scenario, demands, low))
    points = math.prod(
        len(table.thresholds_tokens) * (cluster.instances + 1)
        for table, cluster in zip(demands, scenario.local_clusters, strict=True)
    )
    return replace(plan, proof=Proof("bisection over dominating choices", points, high, None))


def _require_falling(demands: Sequence[Demand]) -> None:
    for table in demands:
        if np.any(np.diff(table.long_seconds, axis=1) > 1e-9) or np.any(
            np.diff(table.long_bytes, axis=1) > 1e-3
        ):
            raise InvalidInputError(
                "form",
                "with representative lengths this profile's remote demand rises with the threshold",
                "use form: expectation for several local clusters",
            )


def _first_infeasible(scenario: Scenario, demands: Sequence[Demand]) -> float:
    return min(
        (cluster.instances + 1) * table.decode_rps / cluster.share
        for table, cluster in zip(demands, scenario.local_clusters, strict=True)
    )


def _choices(
    scenario: Scenario, demands: Sequence[Demand], load: _Load
) -> tuple[Choice, ...] | None:
    """The dominating choices at this load, or None when they overfill something."""
    choices = []
    for cluster, table in zip(scenario.local_clusters, demands, strict=True):
        rate = load.rate_rps * cluster.share
        n_d = math.ceil(rate / table.decode_rps * (1 - 1e-12))
        if n_d > cluster.instances:
            return None
        room = (cluster.instances - n_d) * load.ceiling
        # short_seconds rises with the threshold: the greatest index that still fits.
        index = int(np.searchsorted(rate * table.short_seconds, room, side="right")) - 1
        if index < 0:
            return None
        choices.append(Choice(index, cluster.instances - n_d))
    indices = [choice.threshold_index for choice in choices]
    busiest = balance(scenario, offloads_at(scenario, demands, indices)).utilisation
    fits = load.rate_rps * busiest <= load.ceiling if load.rate_rps > 0 else math.isfinite(busiest)
    return tuple(choices) if fits else None


def _most_even(scenario: Scenario, demands: Sequence[Demand], rate: float) -> tuple[Choice, ...]:
    """At the best rate, thresholds that leave local and remote prefill equally full."""
    best = _choices(scenario, demands, _Load(rate))
    low, high = 0.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        found = _choices(scenario, demands, _Load(rate, middle))
        if found is None:
            low = middle
        else:
            best, high = found, middle
    if best is None:
        return tuple(Choice(0, 0) for _ in demands)
    return best
