"""One local cluster: every threshold and every split tried (eqs. 6-8 as a 2-D grid search)."""

from dataclasses import dataclass, replace

import numpy as np

from prefill_data.planner.curves import Floats
from prefill_data.planner.demand import Demand
from prefill_data.planner.fleet import BYTES_PER_SECOND_PER_GBPS, Scenario
from prefill_data.planner.plan import Choice, Plan, Proof, evaluate

TIE = 1e-9


@dataclass(frozen=True, eq=False)
class StageRates:
    """Arrival rates each stage can carry: over thresholds `[m]`, and splits n_p = 0..N `[N+1]`.

    `remote_rps` = Theta_prfaas / p, `local_rps [N+1, m]` = Theta_pd_p / (1-p), `decode_rps [N+1]`.
    Infinite where a stage has nothing to do.
    """

    thresholds_tokens: Floats
    remote_rps: Floats
    local_rps: Floats
    decode_rps: Floats

    @property
    def lambda_rps(self) -> Floats:
        """Eq. 6 on the whole grid, `[N+1, m]`."""
        return np.minimum(np.minimum(self.local_rps, self.remote_rps), self.decode_rps[:, None])


def stage_rates(scenario: Scenario, table: Demand) -> StageRates:
    """The three stage curves of a scenario with one local cluster."""
    cluster = scenario.local_clusters[0]
    splits = np.arange(cluster.instances + 1, dtype=np.float64)
    remote = np.zeros_like(table.thresholds_tokens)
    for i, source in enumerate(scenario.prefill_clusters):
        link = scenario.link(source, cluster)
        if link is not None:
            gbps = min(source.egress_gbps, link.bandwidth_gbps)
            compute = rate_of(np.array(float(source.instances)), table.long_seconds[i])
            wire = rate_of(np.array(gbps * BYTES_PER_SECOND_PER_GBPS), table.long_bytes[i])
            remote += np.minimum(compute, wire)
    remote = np.where(table.long_fraction > 0, remote, np.inf)
    return StageRates(
        table.thresholds_tokens,
        remote,
        rate_of(splits[:, None], table.short_seconds[None, :]),
        (cluster.instances - splits) * table.decode_rps,
    )


def solve_grid(scenario: Scenario, table: Demand) -> Plan:
    """The best point of the grid, proven: all of them were evaluated."""
    rates = stage_rates(scenario, table)
    grid = rates.lambda_rps
    best = float(grid.max())
    # Among equally good points the one with most room in both prefill stages queues least.
    slack = np.where(
        grid >= best * (1 - TIE), np.minimum(rates.local_rps, rates.remote_rps), -np.inf
    )
    n_p, index = np.unravel_index(int(np.argmax(slack)), grid.shape)
    plan = evaluate(scenario, [table], [Choice(int(index), int(n_p))])
    proof = Proof("every threshold and split of the grid", grid.size, best, _off_grid(rates))
    return replace(plan, proof=proof)


def _off_grid(rates: StageRates) -> float | None:
    """Between neighbours t < t': the remote stage is at most its rate at t', the local at t."""
    if len(rates.remote_rps) < 2:
        return None
    local, remote = rates.local_rps[1:], rates.remote_rps
    falls = np.all(local[:, 1:] <= local[:, :-1] * (1 + TIE))
    rises = np.all(remote[1:] >= remote[:-1] * (1 - TIE))
    if not (falls and rises):
        return None
    between = np.minimum(rates.local_rps[:, :-1], remote[None, 1:])
    return float(np.minimum(between, rates.decode_rps[:, None]).max())


def rate_of(capacity: Floats, demand: Floats) -> Floats:
    """capacity / demand, infinite where there is no demand (also of 0 capacity)."""
    shape = np.broadcast_shapes(capacity.shape, demand.shape)
    rates = np.full(shape, np.inf)
    np.divide(capacity, demand, out=rates, where=demand > 0)
    return rates
