"""What if: the plan re-optimised while one input moves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from prefill_data.planner.costs import with_bandwidth
from prefill_data.planner.curves import ScaledCurve
from prefill_data.planner.errors import InfeasibleError, require_positive
from prefill_data.planner.fleet import Codec, Scenario, Search
from prefill_data.planner.latency import ttft
from prefill_data.planner.plan import Plan
from prefill_data.planner.solver import solve


class Axis(StrEnum):
    """An input that can be swept; the unit is in the name, ratios have none."""

    BANDWIDTH_GBPS = "bandwidth_gbps"
    RTT_MS = "rtt_ms"
    STATE_RATIO = "state_ratio"
    HARDWARE_RATIO = "hardware_ratio"
    HIT_FRACTION = "hit_fraction"


DEFAULT_VALUES: dict[Axis, tuple[float, ...]] = {
    Axis.BANDWIDTH_GBPS: (1, 2, 5, 10, 13, 20, 50, 100),
    Axis.RTT_MS: (0, 10, 30, 100, 300),
    Axis.STATE_RATIO: (1, 1.5, 2, 4, 8),
    Axis.HARDWARE_RATIO: (0.5, 0.75, 1, 1.5, 2, 3),
    Axis.HIT_FRACTION: (0, 0.2, 0.4, 0.6, 0.8),
}


@dataclass(frozen=True)
class SweepPoint:
    """The best plan at one value; TTFT at the sweep's rate, None where that overloads the plan.

    `whole_grid_rps` is the optimum without a capped search's cap, where the cap binds; else None.
    """

    value: float
    lambda_rps: float
    thresholds_tokens: tuple[int, ...]
    n_p: int
    n_d: int
    egress_gbps: float
    limit: str
    ttft_p90_seconds: float | None = None
    whole_grid_rps: float | None = None


def sweep(
    scenario: Scenario, axis: Axis, values: Sequence[float], rate_rps: float | None = None
) -> list[SweepPoint]:
    """Re-optimise at every value; with a rate, also the P90 TTFT of each plan at that rate."""
    points: list[SweepPoint] = []
    plan = solve(scenario) if axis is Axis.RTT_MS else None
    for value in values:
        moved = with_value(scenario, axis, value)
        if plan is None or axis is not Axis.RTT_MS:  # a round trip moves no rate: one plan for all
            plan = solve(moved)
        points.append(
            SweepPoint(
                value=float(value),
                lambda_rps=plan.lambda_rps,
                thresholds_tokens=tuple(local.threshold_tokens for local in plan.locals),
                n_p=plan.n_p,
                n_d=plan.n_d,
                egress_gbps=plan.egress_gbps,
                limit=plan.limit[0],
                ttft_p90_seconds=_p90(moved, plan, rate_rps),
                whole_grid_rps=whole_grid_rps(moved, plan),
            )
        )
    return points


def whole_grid_rps(scenario: Scenario, plan: Plan) -> float | None:
    """The optimum over all thresholds, if the plan's lies on the edge of a capped search."""
    step, last = scenario.search.step_tokens, scenario.search.last_tokens
    if last is None or all(local.threshold_tokens <= last - step for local in plan.locals):
        return None
    return solve(replace(scenario, search=Search(step))).lambda_rps


def with_value(scenario: Scenario, axis: Axis, value: float) -> Scenario:
    """The scenario with one input moved. Raises InvalidInputError for a value that cannot be."""
    if axis is Axis.BANDWIDTH_GBPS:
        require_positive("bandwidth_gbps", value, "to plan without links, leave them out")
        return with_bandwidth(scenario, value)
    if axis is Axis.RTT_MS:
        return replace(scenario, links=tuple(replace(x, rtt_ms=value) for x in scenario.links))
    if axis is Axis.STATE_RATIO:
        return replace(scenario, codec=Codec(f"{value:g}x", value))
    if axis is Axis.HARDWARE_RATIO:
        return _faster(scenario, value)
    return replace(
        scenario,
        local_clusters=tuple(
            replace(cluster, lengths=cluster.lengths.with_hit_fraction(value))
            for cluster in scenario.local_clusters
        ),
    )


def _faster(scenario: Scenario, ratio: float) -> Scenario:
    """Remote machines that prefill `ratio` times as fast as their profile says."""
    require_positive("hardware_ratio", ratio, "2 means twice as fast")
    clusters = tuple(
        replace(
            cluster,
            hardware=replace(
                cluster.hardware, prefill=ScaledCurve(cluster.hardware.prefill, 1 / ratio)
            ),
        )
        for cluster in scenario.prefill_clusters
    )
    return replace(scenario, prefill_clusters=clusters)


def _p90(scenario: Scenario, plan: Plan, rate_rps: float | None) -> float | None:
    if rate_rps is None or rate_rps >= plan.lambda_rps:
        return None
    try:
        return ttft(scenario, plan, rate_rps).p90_seconds
    except InfeasibleError:  # the queue grows below the representative form's rate: no P90
        return None
