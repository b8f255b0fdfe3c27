"""Time to first token of a plan at a rate: queue, prefill, exposed wire and round trips.

Stated approximations: arrivals are Poisson; each prefill pool and the decode slots are M/G/k
(queueing.py) and their waits independent; wires as in wire.py. The decode node's own first step is
not counted. Routing is by the plan's threshold, however long a queue is.
"""

import math
from dataclasses import dataclass

import numpy as np

from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.flows import Flow, Resource, flows_of
from prefill_data.planner.plan import Plan
from prefill_data.planner.queueing import (
    NO_WAIT,
    Service,
    WaitingTime,
    smoothing,
    waiting_time,
)
from prefill_data.planner.wire import Held, held, wire_waits

RATE_BISECTIONS = 20


@dataclass(frozen=True)
class Ttft:
    """Seconds to first token over all requests; the four parts add up to the mean."""

    mean_seconds: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    queue_seconds: float
    prefill_seconds: float
    exposed_wire_seconds: float
    rtt_seconds: float


@dataclass(frozen=True, eq=False)
class _Path:
    """One flow's requests: their share of arrivals, their queues, and what holds them after."""

    share: float
    wait: WaitingTime
    held: Held


@dataclass(frozen=True, eq=False)
class _Pool:
    """All prompts of one pool of machines; `share` of all arrivals."""

    service: Service
    share: float
    servers: int


def ttft(scenario: Scenario, plan: Plan, rate_rps: float) -> Ttft:
    """TTFT with queueing at this rate. Raises InfeasibleError when a stage is overloaded."""
    return _summary(_paths(scenario, plan, flows_of(scenario, plan), rate_rps))


def bare_ttft(scenario: Scenario, plan: Plan) -> Ttft:
    """Prefill time alone, as the paper's Table 6 counts TTFT: no queue, wire or round trip."""
    paths = []
    for flow in flows_of(scenario, plan):
        mean = float(flow.weights @ flow.prefill_seconds)
        alone = Held(flow.prefill_seconds, flow.weights, mean, 0.0, 0.0)
        paths.append(_Path(flow.share, NO_WAIT, alone))
    return _summary(paths)


def capacity_rps(scenario: Scenario, plan: Plan) -> float:
    """The rate at which a queue of this plan grows without end.

    It is below `lambda_rps` in the representative form: a queue meets every prompt, not the mean.
    """
    flows = flows_of(scenario, plan)
    pools = [_pool(flows, pool) for pool in {flow.pool for flow in flows}]
    loads = [pool.share * pool.service.moment(1) / pool.servers for pool in pools]
    shared = ("link", "egress", "decode")
    loads += [u / plan.lambda_rps for (kind, _), u in plan.utilisation.items() if kind in shared]
    return 1 / max(loads)


def greatest_rate(scenario: Scenario, plan: Plan, p90_seconds: float) -> float:
    """The greatest rate, requests/s, at which this plan's P90 TTFT meets the target.

    Raises InfeasibleError, saying by how much, when an idle fleet already misses it.
    """
    idle = ttft(scenario, plan, 0.0).p90_seconds
    if idle > p90_seconds:
        raise InfeasibleError(
            "slo.ttft_p90_seconds",
            f"{p90_seconds:g} s, and an idle fleet has a P90 of {idle:.3g} s",
            "relax the target, or use faster prefill machines or links",
            shortfall=idle / p90_seconds - 1,
        )
    flows = flows_of(scenario, plan)
    low, high = 0.0, capacity_rps(scenario, plan)
    for _ in range(RATE_BISECTIONS):
        middle = (low + high) / 2
        paths = _paths_if_stable(scenario, plan, flows, middle)
        if paths is not None and _cdf(paths, p90_seconds) >= 0.9:
            low = middle
        else:
            high = middle
    return low


def meets(scenario: Scenario, plan: Plan, rate_rps: float, p90_seconds: float) -> bool:
    """Whether this plan's P90 TTFT meets a target at a rate; an overloaded one does not."""
    paths = _paths_if_stable(scenario, plan, flows_of(scenario, plan), rate_rps)
    return paths is not None and _cdf(paths, p90_seconds) >= 0.9


def _paths_if_stable(
    scenario: Scenario, plan: Plan, flows: list[Flow], rate_rps: float
) -> list[_Path] | None:
    try:
        return _paths(scenario, plan, flows, rate_rps)
    except InfeasibleError:  # an overloaded stage is the answer "no" here, not a failure
        return None


def _paths(scenario: Scenario, plan: Plan, flows: list[Flow], rate_rps: float) -> list[_Path]:
    """Every flow with its prefill pool's wait, its wires, then the wait for a decode slot."""
    pools = {pool: _pool(flows, pool) for pool in {flow.pool for flow in flows}}
    waits = {
        pool: waiting_time(p.service, rate_rps * p.share, p.servers) for pool, p in pools.items()
    }
    smoothed = {
        pool: smoothing(p.service, rate_rps * p.share, p.servers) for pool, p in pools.items()
    }
    gaps = {p: 1 + smoothed[p] * (pools[p].service.squared_variation - 1) for p in pools}
    slots = {
        local.name: wait.times(_mean_over(flows, gaps, local.name))
        for local, wait in zip(plan.locals, _slot_waits(scenario, plan, rate_rps), strict=True)
    }
    wires = wire_waits(flows, rate_rps, smoothed)
    return [
        _Path(flow.share, waits[flow.pool].plus(slots[flow.target]), held(flow, wires))
        for flow in flows
    ]


def _pool(flows: list[Flow], pool: Resource) -> _Pool:
    members = [flow for flow in flows if flow.pool == pool]
    share = sum(flow.share for flow in members)
    service = Service(
        np.concatenate([flow.prefill_seconds for flow in members]),
        np.concatenate([flow.weights * (flow.share / share) for flow in members]),
    )
    return _Pool(service, share, members[0].servers)


def _mean_over(flows: list[Flow], gaps: dict[Resource, float], target: str) -> float:
    """The squared variation of gaps between arrivals at a local cluster's slots (Kingman's c_a^2).

    Slots are held for equal times, so it is the factor on the wait of M/D/k.
    """
    mine = [flow for flow in flows if flow.target == target]
    return sum(f.share * gaps[f.pool] for f in mine) / sum(f.share for f in mine)


def _slot_waits(scenario: Scenario, plan: Plan, rate_rps: float) -> list[WaitingTime]:
    """For a decode slot: every request holds one for L_out steps at the full batch's pace."""
    waits = []
    for cluster, local in zip(scenario.local_clusters, plan.locals, strict=True):
        seconds = local.decode_step_seconds * cluster.lengths.mean_output_tokens
        service = Service(np.array([seconds]), np.array([1.0]))
        slots = local.n_d * local.decode_slots
        waits.append(waiting_time(service, rate_rps * cluster.share, slots))
    return waits


def _cdf(paths: list[_Path], seconds: float) -> float:
    return sum(
        path.share * float(path.held.weights @ path.wait.cdf(seconds - path.held.seconds))
        for path in paths
    )


def _summary(paths: list[_Path]) -> Ttft:
    queue = math.fsum(p.share * p.wait.mean_seconds for p in paths)
    prefill = math.fsum(p.share * p.held.prefill_seconds for p in paths)
    wire = math.fsum(p.share * p.held.wire_seconds for p in paths)
    rtt = math.fsum(p.share * p.held.rtt_seconds for p in paths)
    p50, p90, p99 = (_quantile(paths, level) for level in (0.5, 0.9, 0.99))
    return Ttft(queue + prefill + wire + rtt, p50, p90, p99, queue, prefill, wire, rtt)


def _quantile(paths: list[_Path], level: float) -> float:
    low = 0.0
    high = max(
        float(path.held.seconds.max()) + (len(path.wait.masses) + 1) * path.wait.step_seconds
        for path in paths
    )
    for _ in range(40):
        middle = (low + high) / 2
        if _cdf(paths, middle) < level * (1 - 1e-12):
            low = middle
        else:
            high = middle
    return high
