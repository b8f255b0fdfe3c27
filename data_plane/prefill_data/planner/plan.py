"""A plan and its evaluation: given thresholds and roles, the stages' rates (eqs. 3-6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefill_data.planner.assign import Offload, balance, resources
from prefill_data.planner.curves import Floats
from prefill_data.planner.demand import Demand
from prefill_data.planner.fleet import LocalCluster, Scenario


@dataclass(frozen=True)
class Choice:
    """One local cluster's decision: a threshold by its index in the grid, and prefill machines."""

    threshold_index: int
    n_p: int


@dataclass(frozen=True)
class LocalPlan:
    """What one local cluster does; rates are of requests that this cluster's stage can finish."""

    name: str
    threshold_tokens: int
    n_p: int
    n_d: int
    long_fraction: float
    mean_long_tokens: float
    mean_short_tokens: float
    theta_pd_p: float
    theta_pd_d: float
    decode_slots: int
    decode_step_seconds: float


@dataclass(frozen=True)
class Proof:
    """Why nothing on the grid is better.

    `points` combinations were evaluated or excluded; no point of the grid exceeds
    `grid_bound_rps`, and no threshold between its points `off_grid_bound_rps` (None when the
    demand curves are not monotone, so that nothing can be said between points).
    """

    method: str
    points: int
    grid_bound_rps: float
    off_grid_bound_rps: float | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The outcome: `lambda_rps` is eq. 6; `shares [i, j]` of j's long prompts go to i.

    `utilisation` of each resource at lambda_rps; `limit` names the fullest one.
    """

    lambda_rps: float
    theta_prfaas: float
    locals: tuple[LocalPlan, ...]
    shares: Floats
    utilisation: dict[tuple[str, str], float]
    limit: tuple[str, str]
    egress_gbps: float
    proof: Proof | None = None

    @property
    def n_p(self) -> int:
        return sum(local.n_p for local in self.locals)

    @property
    def n_d(self) -> int:
        return sum(local.n_d for local in self.locals)


def evaluate(scenario: Scenario, demands: Sequence[Demand], choices: Sequence[Choice]) -> Plan:
    """The greatest rate of these decisions, and what limits it."""
    offloads = offloads_at(scenario, demands, [choice.threshold_index for choice in choices])
    assignment = balance(scenario, offloads)
    per_rps = _local_utilisation(scenario, demands, choices)
    per_rps |= {
        key: _load(row, assignment.shares) for key, row in resources(scenario, offloads).items()
    }
    if math.isinf(assignment.utilisation):
        per_rps["prefill", "nowhere"] = math.inf
    busiest = max(per_rps, key=lambda key: per_rps[key])
    rate = 1 / per_rps[busiest]
    offloaded = sum(offload.fraction for offload in offloads)
    payload = [o.payload_bytes @ assignment.shares[:, j] for j, o in enumerate(offloads)]
    return Plan(
        lambda_rps=rate,
        theta_prfaas=offloaded / assignment.utilisation if assignment.utilisation else 0.0,
        locals=tuple(
            _local_plan(cluster, table, choice)
            for cluster, table, choice in zip(
                scenario.local_clusters, demands, choices, strict=True
            )
        ),
        shares=assignment.shares,
        utilisation={key: rate * load if rate else 0.0 for key, load in per_rps.items()},
        limit=busiest,
        egress_gbps=rate * float(sum(payload)) * 8e-9,
    )


def offloads_at(
    scenario: Scenario, demands: Sequence[Demand], indices: Sequence[int]
) -> list[Offload]:
    """Every local cluster's long prompts at these thresholds, per arrival of the whole fleet."""
    return [
        Offload(
            cluster,
            cluster.share * float(table.long_fraction[index]),
            cluster.share * table.long_seconds[:, index],
            cluster.share * table.long_bytes[:, index],
        )
        for cluster, table, index in zip(scenario.local_clusters, demands, indices, strict=True)
    ]


def _local_utilisation(
    scenario: Scenario, demands: Sequence[Demand], choices: Sequence[Choice]
) -> dict[tuple[str, str], float]:
    loads = {}
    for cluster, table, choice in zip(scenario.local_clusters, demands, choices, strict=True):
        seconds = cluster.share * float(table.short_seconds[choice.threshold_index])
        loads["local prefill", cluster.name] = _over(seconds, choice.n_p)
        decoders = (cluster.instances - choice.n_p) * table.decode_rps
        loads["decode", cluster.name] = _over(cluster.share, decoders)
    return loads


def _local_plan(cluster: LocalCluster, table: Demand, choice: Choice) -> LocalPlan:
    index, n_d = choice.threshold_index, cluster.instances - choice.n_p
    short_seconds = float(table.short_seconds[index])
    short_fraction = 1 - float(table.long_fraction[index])
    return LocalPlan(
        name=cluster.name,
        threshold_tokens=round(float(table.thresholds_tokens[index])),
        n_p=choice.n_p,
        n_d=n_d,
        long_fraction=float(table.long_fraction[index]),
        mean_long_tokens=float(table.long_tokens[index]),
        mean_short_tokens=float(table.short_tokens[index]),
        theta_pd_p=choice.n_p * short_fraction / short_seconds if short_seconds > 0 else 0.0,
        theta_pd_d=n_d * table.decode_rps,
        decode_slots=table.decode_slots,
        decode_step_seconds=table.decode_step_seconds,
    )


def _load(row: Floats, shares: Floats) -> float:
    """Sum of row * shares where shares are used (an unused pair's row may be infinite)."""
    return float(np.sum(np.where(shares > 0, row, 0.0) * shares))


def _over(demand: float, capacity: float) -> float:
    if demand <= 0:
        return 0.0
    return demand / capacity if capacity > 0 else math.inf
