"""Money: what a fleet costs an hour, a million tokens, and where offloading stops paying.

Integer micros at the edges; only ratios are floats.
"""

import math
from dataclasses import dataclass, replace

from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.plan import Plan
from prefill_data.planner.solver import homogeneous, solve

MICRO = 1_000_000
WIDEST_GBPS = 10_000.0
NARROWEST_GBPS = 0.001
MAX_MACHINES = 4096


@dataclass(frozen=True)
class Cost:
    """Micros of the plan's currency; None where no machine has a price."""

    machines_micros_per_hour: int
    egress_micros_per_hour: int
    per_million_input_tokens_micros: int | None
    per_million_output_tokens_micros: int | None

    @property
    def total_micros_per_hour(self) -> int:
        return self.machines_micros_per_hour + self.egress_micros_per_hour


def cost(scenario: Scenario, plan: Plan, rate_rps: float) -> Cost:
    """The fleet's cost at a rate: machines run anyway, egress is paid by the byte.

    Tokens are all input tokens, cached ones too; the output price is the same money over the
    output tokens, not an addition.
    """
    machines = sum(
        cluster.instances * cluster.price_micros_per_hour for cluster in scenario.clusters
    )
    egress = _egress_micros_per_hour(scenario, plan, rate_rps)
    inputs = sum(c.share * c.lengths.mean_total_tokens for c in scenario.local_clusters)
    outputs = sum(c.share * c.lengths.mean_output_tokens for c in scenario.local_clusters)
    priced = machines + egress > 0 and rate_rps > 0
    return Cost(
        machines,
        egress,
        _per_million(machines + egress, rate_rps * inputs) if priced else None,
        _per_million(machines + egress, rate_rps * outputs) if priced else None,
    )


def _per_million(hourly: int, tokens_per_second: float) -> int:
    return math.ceil(hourly / (tokens_per_second * 3600 / MICRO))


def _egress_micros_per_hour(scenario: Scenario, plan: Plan, rate_rps: float) -> int:
    if not plan.lambda_rps > 0:
        return 0
    total = 0.0
    for link in scenario.links:
        key = ("link", f"{link.source}->{link.target}")
        filled = plan.utilisation.get(key, 0.0) * rate_rps / plan.lambda_rps
        gb_per_hour = filled * link.bandwidth_gbps / 8 * 3600
        total += gb_per_hour * link.price_micros_per_gb
    return round(total)


def same_gpus(scenario: Scenario) -> tuple[Scenario, Plan]:
    """The local-only fleet with as many GPUs."""
    budget = sum(c.instances * c.hardware.gpus for c in scenario.prefill_clusters)
    price = {c.name: c.hardware.gpus for c in scenario.local_clusters}
    return homogeneous(scenario, budget, price)


def same_cost(scenario: Scenario, plan: Plan) -> tuple[Scenario, Plan] | None:
    """The local-only fleet for the same money (remote machines and egress at the plan's rate).

    None when prices are missing. Machines are whole: a remainder buys nothing.
    """
    clusters = scenario.clusters
    if any(cluster.price_micros_per_hour <= 0 for cluster in clusters):
        return None
    budget = sum(c.instances * c.price_micros_per_hour for c in scenario.prefill_clusters)
    budget += _egress_micros_per_hour(scenario, plan, plan.lambda_rps)
    return homogeneous(scenario, budget, {c.name: c.price_micros_per_hour for c in clusters})


def with_bandwidth(scenario: Scenario, gbps: float) -> Scenario:
    """Every link and egress at this bandwidth."""
    return replace(
        scenario,
        prefill_clusters=tuple(replace(c, egress_gbps=gbps) for c in scenario.prefill_clusters),
        links=tuple(replace(link, bandwidth_gbps=gbps) for link in scenario.links),
    )


def break_even_gbps(scenario: Scenario, target_rps: float) -> float | None:
    """The least bandwidth, on every link, with which the fleet carries the target rate.

    None when no bandwidth does. Within 0.1%.
    """
    if not scenario.links or _rate(with_bandwidth(scenario, WIDEST_GBPS)) < target_rps:
        return None
    low, high = NARROWEST_GBPS, WIDEST_GBPS
    if _rate(with_bandwidth(scenario, low)) >= target_rps:
        return 0.0
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if _rate(with_bandwidth(scenario, middle)) >= target_rps:
            high = middle
        else:
            low = middle
    return high


def break_even_price_micros_per_hour(scenario: Scenario, plan: Plan) -> int | None:
    """The price of one remote instance above which local machines carry the rate for less.

    The average over remote instances when there are several kinds. None without prices or remote
    machines. From whole local machines: the fewest that carry the plan's rate.
    """
    remote = sum(cluster.instances for cluster in scenario.prefill_clusters)
    if not remote or any(c.price_micros_per_hour <= 0 for c in scenario.local_clusters):
        return None
    unit = {cluster.name: 1 for cluster in scenario.local_clusters}
    machines = 1
    while _local_rate(scenario, machines, unit) < plan.lambda_rps * (1 - 1e-9):
        machines *= 2
        if machines > MAX_MACHINES:
            return None
    low, high = 0, machines
    while high - low > 1:
        middle = (low + high) // 2
        if _local_rate(scenario, middle, unit) < plan.lambda_rps * (1 - 1e-9):
            low = middle
        else:
            high = middle
    extra = homogeneous(scenario, high, unit)[0].local_clusters
    money = sum(
        (new.instances - old.instances) * new.price_micros_per_hour
        for new, old in zip(extra, scenario.local_clusters, strict=True)
    )
    # Below zero, egress alone costs more than local machines would: not worth it at any price.
    return max(0, money - _egress_micros_per_hour(scenario, plan, plan.lambda_rps)) // remote


def _local_rate(scenario: Scenario, machines: int, unit: dict[str, int]) -> float:
    try:
        return homogeneous(scenario, machines, unit)[1].lambda_rps
    except InfeasibleError:  # too few machines to serve anything: a rate of zero
        return 0.0


def _rate(scenario: Scenario) -> float:
    try:
        return solve(scenario).lambda_rps
    except InfeasibleError:  # nothing is served at this bandwidth: a rate of zero
        return 0.0
