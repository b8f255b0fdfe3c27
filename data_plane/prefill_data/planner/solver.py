"""The best plan of a scenario, and the fleets it is compared with."""

from dataclasses import replace

import numpy as np

from prefill_data.planner.demand import Demand, demand
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import LocalCluster, Scenario
from prefill_data.planner.grid import solve_grid
from prefill_data.planner.plan import Choice, Plan, evaluate
from prefill_data.planner.regions import solve_regions


def solve(scenario: Scenario) -> Plan:
    """The thresholds and roles with the greatest rate (eqs. 6-8).

    Raises InfeasibleError when no choice serves any request at all.
    """
    demands = demands_of(scenario)
    plan = (
        solve_grid(scenario, demands[0]) if len(demands) == 1 else solve_regions(scenario, demands)
    )
    if not plan.lambda_rps > 0:
        kind, name = plan.limit
        raise InfeasibleError(
            f"local_clusters.{name}" if kind in ("decode", "local prefill") else name,
            f"no request can be served: {kind} has no capacity",
            "give every local cluster a machine to decode, and prefill machines here or remotely",
            shortfall=1.0,
        )
    return plan


def demands_of(scenario: Scenario) -> list[Demand]:
    """The demand table of every local cluster, in order."""
    return [demand(scenario, cluster) for cluster in scenario.local_clusters]


def offload_everything(scenario: Scenario) -> Plan | None:
    """The naive plan: threshold 0 and no local prefill; None where a cluster reaches nobody."""
    demands = demands_of(scenario)
    if not all(any(table.reachable) for table in demands):
        return None
    return evaluate(scenario, demands, [Choice(0, 0) for _ in demands])


def without_remote(scenario: Scenario, extra: dict[str, int]) -> Scenario:
    """Only local clusters, each with so many machines more."""
    clusters = tuple(
        replace(cluster, instances=cluster.instances + extra.get(cluster.name, 0))
        for cluster in scenario.local_clusters
    )
    return replace(scenario, prefill_clusters=(), links=(), local_clusters=clusters)


def homogeneous(scenario: Scenario, budget: int, price: dict[str, int]) -> tuple[Scenario, Plan]:
    """The best local-only fleet that spends the budget on more local machines.

    `price` of a machine of each local cluster, in the budget's unit (micros an hour, or 1 when
    machines are counted). Each machine goes where it is the slowest cluster's: with rates that
    only grow with machines, this greedy choice is the best one.
    """
    alone = without_remote(scenario, {})
    tables = {c.name: t for c, t in zip(alone.local_clusters, demands_of(alone), strict=True)}
    machines = {cluster.name: cluster.instances for cluster in alone.local_clusters}
    rates = {c.name: _alone_rps(tables[c.name], c) for c in alone.local_clusters}
    while True:
        slowest = min(alone.local_clusters, key=lambda cluster: rates[cluster.name])
        if price[slowest.name] > budget or price[slowest.name] <= 0:
            break
        budget -= price[slowest.name]
        machines[slowest.name] += 1
        grown = replace(slowest, instances=machines[slowest.name])
        rates[slowest.name] = _alone_rps(tables[slowest.name], grown)
    extra = {c.name: machines[c.name] - c.instances for c in alone.local_clusters}
    local = without_remote(scenario, extra)
    return local, solve(local)


def _alone_rps(table: Demand, cluster: LocalCluster) -> float:
    """The fleet's rate if only this cluster, without remote prefill, limited it: its best split."""
    n_p = np.arange(cluster.instances + 1)
    prefill = n_p / float(table.short_seconds[-1])
    decode = (cluster.instances - n_p) * table.decode_rps
    return float(np.minimum(prefill, decode).max()) / cluster.share
