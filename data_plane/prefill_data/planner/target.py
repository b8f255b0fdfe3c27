"""The plan for a latency target: near the plan of most throughput, but not the same.

Queues dislike full stages, so under a P90 target a little throughput is worth giving up for room:
more local prefill machines, other thresholds. All local clusters move together over a small grid of
threshold factors and shifts of roles around the throughput plan; of those the best is returned.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from prefill_data.planner.demand import Demand
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.latency import greatest_rate, meets
from prefill_data.planner.plan import Choice, Plan, evaluate
from prefill_data.planner.solver import demands_of

FACTORS = (1.0, 0.9, 1.1, 0.8, 1.2, 0.65, 1.4)
SHIFTS = (0, 1, -1, 2)
WORTH = 1.002  # less than this is not another plan


@dataclass(frozen=True, eq=False)
class TargetPlan:
    """A plan and the greatest rate, requests/s, at which its P90 TTFT meets the target."""

    plan: Plan
    rate_rps: float


def plan_for_target(
    scenario: Scenario, plan: Plan, p90_seconds: float, rate_rps: float | None
) -> TargetPlan | None:
    """The best of the throughput plan and its neighbours at this target.

    `rate_rps` is the plan's own greatest rate, None when it misses the target even when idle; the
    answer is None when all neighbours do.
    """
    best = TargetPlan(plan, rate_rps) if rate_rps is not None else None
    for candidate in _neighbours(scenario, demands_of(scenario), plan):
        floor = best.rate_rps * WORTH if best else 0.0
        if candidate.lambda_rps <= floor:
            continue
        if best and not meets(scenario, candidate, floor, p90_seconds):
            continue
        try:
            best = TargetPlan(candidate, greatest_rate(scenario, candidate, p90_seconds))
        except InfeasibleError:  # it misses the target even when idle: not the plan for it
            continue
    return best


def _neighbours(scenario: Scenario, demands: list[Demand], plan: Plan) -> Iterator[Plan]:
    """Plans around this one; each (thresholds, roles) once."""
    seen = set()
    for factor, shift in itertools.product(FACTORS, SHIFTS):
        if (factor, shift) != (1.0, 0):
            choices = tuple(
                Choice(
                    _index(table, local.threshold_tokens * factor),
                    max(0, min(cluster.instances - 1, local.n_p + shift)),
                )
                for cluster, table, local in zip(
                    scenario.local_clusters, demands, plan.locals, strict=True
                )
            )
            if choices not in seen:
                seen.add(choices)
                yield evaluate(scenario, demands, choices)


def _index(table: Demand, tokens: float) -> int:
    """The grid's threshold that is nearest."""
    return int(abs(table.thresholds_tokens - tokens).argmin())
