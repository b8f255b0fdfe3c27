"""Which prompts of which cluster meet which pool and wire: a plan as flows of requests."""

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

Mask = NDArray[np.bool_]
Resource = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Wired:
    """How a flow travels: encoded bytes `[n]` before and in the closing set, and over what.

    `wires` maps each shared resource (link, egress) to its bytes/s; the scarcest one paces.
    """

    overlapped_bytes: Floats
    closing_bytes: Floats
    wires: dict[Resource, float]
    rtt_seconds: float

    @property
    def bytes_per_second(self) -> float:
        return min(self.wires.values())

    def mean_bytes(self, weights: Floats) -> float:
        """The mean encoded state."""
        return float(weights @ (self.overlapped_bytes + self.closing_bytes))


@dataclass(frozen=True, eq=False)
class Flow:
    """Requests of one local cluster in one pool: `share` of all arrivals, atoms `[n]`.

    `wired` is None for prompts that stay local.
    """

    pool: Resource
    target: str
    servers: int
    share: float
    weights: Floats
    prefill_seconds: Floats
    wired: Wired | None = None


def flows_of(scenario: Scenario, plan: Plan) -> list[Flow]:
    """Every flow of a plan. Raises InfeasibleError where a plan uses a link that is not there."""
    flows = []
    for j, (cluster, local) in enumerate(zip(scenario.local_clusters, plan.locals, strict=True)):
        stays = cluster.lengths.tokens <= local.threshold_tokens
        if stays.any():
            flows.append(_local_flow(cluster, local.n_p, stays))
        for i, source in enumerate(scenario.prefill_clusters):
            share = float(plan.shares[i, j])
            if share > 1e-12 and not stays.all():
                flows.append(_remote_flow(scenario, (source, cluster, share), ~stays))
    return flows


def _local_flow(cluster: LocalCluster, servers: int, stays: Mask) -> Flow:
    weights = cluster.lengths.weights[stays]
    seconds = cluster.hardware.prefill.at(cluster.lengths.tokens[stays])
    share = cluster.share * float(weights.sum())
    pool = ("local prefill", cluster.name)
    return Flow(pool, cluster.name, servers, share, weights / weights.sum(), seconds)


def _remote_flow(
    scenario: Scenario, route: tuple[PrefillCluster, LocalCluster, float], goes: Mask
) -> Flow:
    source, cluster, share = route
    tokens, weights = cluster.lengths.tokens[goes], cluster.lengths.weights[goes]
    return Flow(
        pool=("prefill", source.name),
        target=cluster.name,
        servers=source.instances,
        share=cluster.share * float(weights.sum()) * share,
        weights=weights / weights.sum(),
        prefill_seconds=source.hardware.prefill.at(tokens),
        wired=_wired(scenario, source, cluster, tokens),
    )


def _wired(
    scenario: Scenario, source: PrefillCluster, cluster: LocalCluster, tokens: Floats
) -> Wired:
    link = scenario.link(source, cluster)
    if link is None:
        raise InfeasibleError("links", f"none from {source.name} to {cluster.name}", "add it")
    curve: Curve = scenario.codec.state_curve(source.hardware)
    closing = curve.at(np.minimum(tokens, float(scenario.exchange.chunk_tokens)))
    return Wired(
        overlapped_bytes=curve.at(tokens) - closing,
        closing_bytes=closing,
        wires={
            ("link", f"{source.name}->{cluster.name}"): link.bandwidth_gbps
            * BYTES_PER_SECOND_PER_GBPS,
            ("egress", source.name): source.egress_gbps * BYTES_PER_SECOND_PER_GBPS,
        },
        rtt_seconds=scenario.exchange.round_trips * link.rtt_ms / 1000,
    )
