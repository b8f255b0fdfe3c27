"""Time to first token of a plan at a rate: queue, prefill, exposed wire and round trips.

Stated approximations: arrivals are Poisson; each prefill pool and the decode slots are M/G/k
(queueing.py), their waits independent; a link shares its bandwidth, so a transfer takes 1/(1 - rho)
times as long (exact in the mean for M/G/1 processor sharing); a transfer overlaps its prefill and
exposes what compute does not hide, plus the closing set. The decode node's own first step is not
counted. Routing is by the plan's threshold, however long a queue is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefill_data.planner.curves import Curve, Floats
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import (
    BYTES_PER_SECOND_PER_GBPS,
    LocalCluster,
    PrefillCluster,
    Scenario,
)
from prefill_data.planner.plan import Plan
from prefill_data.planner.queueing import NO_WAIT, Service, WaitingTime, waiting_time

Mask = NDArray[np.bool_]

RATE_BISECTIONS = 24


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
class _Flow:
    """Requests of one local cluster in one pool: `share` of all arrivals, atoms `[n]`."""

    pool: str
    target: str
    servers: int
    share: float
    weights: Floats
    prefill_seconds: Floats
    wire_seconds: Floats
    rtt_seconds: float

    @property
    def service_seconds(self) -> Floats:
        return self.prefill_seconds + self.wire_seconds + self.rtt_seconds


def ttft(scenario: Scenario, plan: Plan, rate_rps: float) -> Ttft:
    """TTFT with queueing at this rate. Raises InfeasibleError when a stage is overloaded."""
    flows = _flows(scenario, plan, rate_rps)
    waits = _waits(scenario, plan, flows, rate_rps)
    return _summary(flows, waits)


def bare_ttft(scenario: Scenario, plan: Plan) -> Ttft:
    """Prefill time alone, as the paper's Table 6 counts TTFT: no queue, wire or round trip."""
    flows = [
        _Flow(
            f.pool, f.target, f.servers, f.share, f.weights, f.prefill_seconds, 0 * f.weights, 0.0
        )
        for f in _flows(scenario, plan, 0.0)
    ]
    return _summary(flows, [NO_WAIT] * len(flows))


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
    low, high = 0.0, plan.lambda_rps
    for _ in range(RATE_BISECTIONS):
        middle = (low + high) / 2
        if _meets(scenario, plan, middle, p90_seconds):
            low = middle
        else:
            high = middle
    return low


def _meets(scenario: Scenario, plan: Plan, rate_rps: float, p90_seconds: float) -> bool:
    try:
        flows = _flows(scenario, plan, rate_rps)
        waits = _waits(scenario, plan, flows, rate_rps)
    except InfeasibleError:  # an overloaded stage is the answer "no" here, not a failure
        return False
    return _cdf(flows, waits, p90_seconds) >= 0.9


def _flows(scenario: Scenario, plan: Plan, rate_rps: float) -> list[_Flow]:
    flows = []
    for j, (cluster, local) in enumerate(zip(scenario.local_clusters, plan.locals, strict=True)):
        stays = cluster.lengths.tokens <= local.threshold_tokens
        if stays.any():
            flows.append(_local_flow(cluster, local.n_p, stays))
        for i, source in enumerate(scenario.prefill_clusters):
            share = float(plan.shares[i, j])
            if share > 1e-12 and not stays.all():
                rate = _Wire(scenario, plan, rate_rps).bytes_per_second(source, cluster)
                flows.append(_remote_flow(scenario, (source, cluster, share), ~stays, rate))
    return flows


def _local_flow(cluster: LocalCluster, servers: int, stays: Mask) -> _Flow:
    weights = cluster.lengths.weights[stays]
    seconds = cluster.hardware.prefill.at(cluster.lengths.tokens[stays])
    share = cluster.share * float(weights.sum())
    pool = f"local prefill {cluster.name}"
    return _Flow(
        pool, cluster.name, servers, share, weights / weights.sum(), seconds, 0 * seconds, 0.0
    )


def _remote_flow(
    scenario: Scenario,
    route: tuple[PrefillCluster, LocalCluster, float],
    goes: Mask,
    bytes_per_second: float,
) -> _Flow:
    source, cluster, share = route
    tokens, weights = cluster.lengths.tokens[goes], cluster.lengths.weights[goes]
    seconds = source.hardware.prefill.at(tokens)
    link = scenario.link(source, cluster)
    return _Flow(
        pool=f"prefill {source.name}",
        target=cluster.name,
        servers=source.instances,
        share=cluster.share * float(weights.sum()) * share,
        weights=weights / weights.sum(),
        prefill_seconds=seconds,
        wire_seconds=exposed_wire_seconds(scenario, source, tokens, bytes_per_second),
        rtt_seconds=scenario.exchange.round_trips * link.rtt_ms / 1000 if link else 0.0,
    )


def exposed_wire_seconds(
    scenario: Scenario, source: PrefillCluster, tokens: Floats, bytes_per_second: float
) -> Floats:
    """max(0, wire - compute) of what overlaps, plus the closing set, which cannot; `[n]`."""
    curve: Curve = scenario.codec.state_curve(source.hardware)
    closing_bytes = curve.at(np.minimum(tokens, scenario.exchange.chunk_tokens))
    overlapped_bytes = curve.at(tokens) - closing_bytes
    compute_seconds = source.hardware.prefill.at(tokens)
    hidden = np.maximum(0.0, overlapped_bytes / bytes_per_second - compute_seconds)
    return hidden + closing_bytes / bytes_per_second


class _Wire:
    """Bandwidth left to one transfer at a rate: B (1 - rho) of the scarcer of link and egress."""

    def __init__(self, scenario: Scenario, plan: Plan, rate_rps: float) -> None:
        self._scenario = scenario
        self._scale = rate_rps / plan.lambda_rps if plan.lambda_rps > 0 else 0.0
        self._utilisation = plan.utilisation

    def bytes_per_second(self, source: PrefillCluster, target: LocalCluster) -> float:
        link = self._scenario.link(source, target)
        if link is None:
            raise InfeasibleError("links", f"none from {source.name} to {target.name}", "add it")
        pair = f"{source.name}->{target.name}"
        gbps = min(
            self._left(link.bandwidth_gbps, ("link", pair)),
            self._left(source.egress_gbps, ("egress", source.name)),
        )
        return gbps * BYTES_PER_SECOND_PER_GBPS

    def _left(self, gbps: float, resource: tuple[str, str]) -> float:
        utilisation = self._scale * self._utilisation.get(resource, 0.0)
        if utilisation >= 1 - 1e-9:
            kind, name = resource
            raise InfeasibleError(
                f"{kind} {name}",
                f"{gbps:g} Gbit/s would be {utilisation:.1%} full",
                "lower the rate, raise the threshold or widen the link",
                shortfall=utilisation - 1,
            )
        return gbps * (1 - utilisation)


def _waits(
    scenario: Scenario, plan: Plan, flows: list[_Flow], rate_rps: float
) -> list[WaitingTime]:
    """The wait of each flow: its prefill pool's, then for a decode slot of its local cluster."""
    pools: dict[str, WaitingTime] = {}
    for name in {flow.pool for flow in flows}:
        members = [flow for flow in flows if flow.pool == name]
        share = sum(flow.share for flow in members)
        service = Service(
            np.concatenate([flow.prefill_seconds for flow in members]),
            np.concatenate([flow.weights * (flow.share / share) for flow in members]),
        )
        pools[name] = waiting_time(service, rate_rps * share, members[0].servers)
    slots = _slot_waits(scenario, plan, rate_rps)
    return [pools[flow.pool].plus(slots[flow.target]) for flow in flows]


def _slot_waits(scenario: Scenario, plan: Plan, rate_rps: float) -> dict[str, WaitingTime]:
    """For a decode slot: every request holds one for L_out steps at the full batch's pace."""
    waits = {}
    for cluster, local in zip(scenario.local_clusters, plan.locals, strict=True):
        seconds = local.decode_step_seconds * cluster.lengths.mean_output_tokens
        service = Service(np.array([seconds]), np.array([1.0]))
        waits[cluster.name] = waiting_time(
            service, rate_rps * cluster.share, local.n_d * local.decode_slots
        )
    return waits


def _cdf(flows: list[_Flow], waits: list[WaitingTime], seconds: float) -> float:
    return sum(
        flow.share * float(flow.weights @ wait.cdf(seconds - flow.service_seconds))
        for flow, wait in zip(flows, waits, strict=True)
    )


def _summary(flows: list[_Flow], waits: list[WaitingTime]) -> Ttft:
    queue = sum(f.share * w.mean_seconds for f, w in zip(flows, waits, strict=True))
    prefill = sum(f.share * float(f.weights @ f.prefill_seconds) for f in flows)
    wire = sum(f.share * float(f.weights @ f.wire_seconds) for f in flows)
    rtt = sum(f.share * f.rtt_seconds for f in flows)
    p50, p90, p99 = (_quantile(flows, waits, q) for q in (0.5, 0.9, 0.99))
    return Ttft(queue + prefill + wire + rtt, p50, p90, p99, queue, prefill, wire, rtt)


def _quantile(flows: list[_Flow], waits: list[WaitingTime], level: float) -> float:
    low = 0.0
    high = max(
        float(flow.service_seconds.max()) + (len(wait.masses) + 1) * wait.step_seconds
        for flow, wait in zip(flows, waits, strict=True)
    )
    for _ in range(40):
        middle = (low + high) / 2
        if _cdf(flows, waits, middle) < level * (1 - 1e-12):
            low = middle
        else:
            high = middle
    return high
