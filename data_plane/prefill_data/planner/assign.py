"""Who prefills whose long prompts: shares that keep the busiest machine or wire least busy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefill_data.planner.curves import Floats
from prefill_data.planner.fleet import BYTES_PER_SECOND_PER_GBPS, LocalCluster, Scenario
from prefill_data.planner.simplex import minimise


@dataclass(frozen=True, eq=False)
class Offload:
    """Demand of one local cluster's long prompts, per arrival of the whole fleet.

    `seconds [i]` and `payload_bytes [i]` if prefill cluster i did all of them; `fraction` of all
    arrivals.
    """

    cluster: LocalCluster
    fraction: float
    seconds: Floats
    payload_bytes: Floats


@dataclass(frozen=True, eq=False)
class Assignment:
    """`shares [i, j]` of local cluster j's long prompts; `utilisation` of the busiest resource
    at 1 request/s of the whole fleet (infinite when somebody's long prompts reach nobody)."""

    utilisation: float
    shares: Floats


def resources(scenario: Scenario, offloads: Sequence[Offload]) -> dict[tuple[str, str], Floats]:
    """Utilisation per unit share `[i, j]` of every machine pool, egress and link, at 1 request/s.

    Keys are (kind, name); a pair that no link joins is infinite in its link's row.
    """
    remotes, shape = scenario.prefill_clusters, (len(scenario.prefill_clusters), len(offloads))
    table: dict[tuple[str, str], Floats] = {}
    for i, remote in enumerate(remotes):
        compute, egress = np.zeros(shape), np.zeros(shape)
        for j, offload in enumerate(offloads):
            compute[i, j] = _per(offload.seconds[i], remote.instances)
            egress[i, j] = offload.payload_bytes[i] / (
                remote.egress_gbps * BYTES_PER_SECOND_PER_GBPS
            )
            link = scenario.link(remote, offload.cluster)
            wire = np.zeros(shape)
            wire[i, j] = math.inf if offload.fraction > 0 else 0.0
            if link is not None:
                wire[i, j] = offload.payload_bytes[i] / (
                    link.bandwidth_gbps * BYTES_PER_SECOND_PER_GBPS
                )
            table["link", f"{remote.name}->{offload.cluster.name}"] = wire
        table["prefill", remote.name] = compute
        table["egress", remote.name] = egress
    return table


def balance(scenario: Scenario, offloads: Sequence[Offload]) -> Assignment:
    """The shares with the least utilisation of the busiest resource: one small linear program."""
    shares = np.zeros((len(scenario.prefill_clusters), len(offloads)))
    active = [j for j, offload in enumerate(offloads) if offload.fraction > 0]
    if not active:
        return Assignment(0.0, shares)
    rows = np.array(list(resources(scenario, offloads).values()))
    usable = np.isfinite(rows).all(axis=0) if len(rows) else np.zeros(shares.shape, dtype=bool)
    if not all(usable[:, j].any() for j in active):
        return Assignment(math.inf, shares)
    pairs = [(i, j) for j in active for i in range(len(shares)) if usable[i, j]]
    loads = np.array([[row[pair] for pair in pairs] for row in rows])
    if len(pairs) == len(active):  # everybody has one way only
        shares[tuple(np.array(pairs).T)] = 1.0
        return Assignment(float(loads.sum(axis=1).max()), shares)
    solution = _least_busiest(loads, [pair[1] for pair in pairs], active)
    shares[tuple(np.array(pairs).T)] = solution
    return Assignment(float((loads @ solution).max()), shares)


def _least_busiest(loads: Floats, owners: list[int], active: list[int]) -> Floats:
    """min u with loads @ x + slack = u and each owner's shares summing to 1."""
    scale = float(loads.max()) or 1.0
    rows, pairs = loads.shape
    equalities = np.zeros((rows + len(active), pairs + 1 + rows))
    equalities[:rows, :pairs] = loads / scale
    equalities[:rows, pairs] = -1.0
    equalities[:rows, pairs + 1 :] = np.eye(rows)
    for index, owner in enumerate(active):
        equalities[rows + index, :pairs] = [float(o == owner) for o in owners]
    values = np.concatenate([np.zeros(rows), np.ones(len(active))])
    cost = np.zeros(pairs + 1 + rows)
    cost[pairs] = 1.0
    solution = minimise(cost, equalities, values)
    if solution is None:
        raise ArithmeticError("shares that sum to 1 always exist")
    return np.clip(solution[:pairs], 0.0, 1.0)


def _per(seconds: float, instances: int) -> float:
    if seconds <= 0:
        return 0.0
    return seconds / instances if instances else math.inf
