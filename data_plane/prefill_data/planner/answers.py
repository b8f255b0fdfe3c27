"""The answer to a plan file: the best plan, what it is worth, what limits it, what to buy next."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prefill_data.planner import costs
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.latency import Ttft, bare_ttft, greatest_rate, ttft
from prefill_data.planner.plan import Plan
from prefill_data.planner.solver import offload_everything, solve
from prefill_data.planner.sweeps import DEFAULT_VALUES, Axis, SweepPoint, sweep

LOADS = (0.5, 0.7, 0.85)
MORE_GBPS = 10.0
SENSITIVITY_LOAD = 0.7


@dataclass(frozen=True, eq=False)
class Comparison:
    """Another fleet or rule on the same workload, with its prefill-only TTFT."""

    scenario: Scenario
    plan: Plan
    bare: Ttft


@dataclass(frozen=True)
class Purchase:
    """One more machine (or 10 Gbit/s more on a wire): the rate it adds, and its price."""

    what: str
    gain_rps: float
    price_micros_per_hour: int | None


@dataclass(frozen=True)
class SloAnswer:
    """The greatest rate that meets the P90 target, or by how much an idle fleet misses it."""

    target_seconds: float
    rate_rps: float | None
    at_rate: Ttft | None
    missed_by: float | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything `prefill-cloud plan` says; None where prices, links or targets were not given."""

    name: str
    currency: str
    scenario: Scenario
    plan: Plan
    bare: Ttft
    homogeneous: Comparison | None
    naive: Comparison | None
    equal_cost: Comparison | None
    queueing: list[tuple[float, Ttft]]
    slo: SloAnswer | None
    cost: costs.Cost
    break_even_gbps: float | None
    break_even_price_micros_per_hour: int | None
    purchases: list[Purchase]
    sensitivity: dict[Axis, list[SweepPoint]] = field(default_factory=dict)


@dataclass(frozen=True)
class Title:
    """How a plan is called, and what its money is."""

    name: str
    currency: str = "USD"


def answer(scenario: Scenario, title: Title, *, sensitivity: bool = True) -> Answer:
    """Solve a scenario and everything around it. Raises InfeasibleError when nothing is served."""
    plan = solve(scenario)
    local = _comparison(lambda: costs.same_gpus(scenario))
    equal = _comparison(lambda: costs.same_cost(scenario, plan))
    reference = equal or local
    rate = SENSITIVITY_LOAD * plan.lambda_rps
    return Answer(
        name=title.name,
        currency=title.currency,
        scenario=scenario,
        plan=plan,
        bare=bare_ttft(scenario, plan),
        homogeneous=local,
        naive=_naive(scenario),
        equal_cost=equal,
        queueing=[(load, ttft(scenario, plan, load * plan.lambda_rps)) for load in LOADS],
        slo=_slo(scenario, plan),
        cost=costs.cost(scenario, plan, plan.lambda_rps),
        break_even_gbps=costs.break_even_gbps(scenario, reference.plan.lambda_rps)
        if reference
        else None,
        break_even_price_micros_per_hour=costs.break_even_price_micros_per_hour(scenario, plan),
        purchases=purchases(scenario, plan),
        sensitivity={
            axis: sweep(scenario, axis, values, rate if axis is Axis.RTT_MS else None)
            for axis, values in DEFAULT_VALUES.items()
            if scenario.prefill_clusters or axis is Axis.HIT_FRACTION
        }
        if sensitivity
        else {},
    )


def purchases(scenario: Scenario, plan: Plan) -> list[Purchase]:
    """Every single addition, best first: most rate for the money, else most rate."""
    found = []
    for index, cluster in enumerate(scenario.prefill_clusters):
        clusters = list(scenario.prefill_clusters)
        clusters[index] = replace(cluster, instances=cluster.instances + 1)
        grown = replace(scenario, prefill_clusters=tuple(clusters))
        found.append(_purchase(cluster.name, grown, plan, cluster.price_micros_per_hour))
    for index, local in enumerate(scenario.local_clusters):
        locals_ = list(scenario.local_clusters)
        locals_[index] = replace(local, instances=local.instances + 1)
        grown = replace(scenario, local_clusters=tuple(locals_))
        found.append(_purchase(local.name, grown, plan, local.price_micros_per_hour))
    if scenario.links:
        found.append(
            Purchase(
                f"{MORE_GBPS:g} Gbit/s more on every link",
                solve(_wider(scenario)).lambda_rps - plan.lambda_rps,
                None,
            )
        )
    return sorted(found, key=_worth, reverse=True)


def _wider(scenario: Scenario) -> Scenario:
    return replace(
        scenario,
        prefill_clusters=tuple(
            replace(c, egress_gbps=c.egress_gbps + MORE_GBPS) for c in scenario.prefill_clusters
        ),
        links=tuple(
            replace(x, bandwidth_gbps=x.bandwidth_gbps + MORE_GBPS) for x in scenario.links
        ),
    )


def _purchase(name: str, grown: Scenario, plan: Plan, price: int) -> Purchase:
    gain = solve(grown).lambda_rps - plan.lambda_rps
    return Purchase(f"one more instance of {name}", gain, price or None)


def _worth(purchase: Purchase) -> tuple[bool, float]:
    price = purchase.price_micros_per_hour
    return price is not None, purchase.gain_rps / (price or 1)


def _comparison(make: Callable[[], tuple[Scenario, Plan] | None]) -> Comparison | None:
    try:
        made = make()
    except InfeasibleError:  # too few machines to compare with: there is no such fleet
        return None
    return Comparison(made[0], made[1], bare_ttft(made[0], made[1])) if made else None


def _naive(scenario: Scenario) -> Comparison | None:
    plan = offload_everything(scenario)
    if plan is None or not plan.lambda_rps > 0:
        return None
    return Comparison(scenario, plan, bare_ttft(scenario, plan))


def _slo(scenario: Scenario, plan: Plan) -> SloAnswer | None:
    target = scenario.slo.ttft_p90_seconds
    if target is None:
        return None
    try:
        rate = greatest_rate(scenario, plan, target)
    except InfeasibleError as error:
        return SloAnswer(target, None, None, error.shortfall, str(error))
    return SloAnswer(target, rate, ttft(scenario, plan, rate), None)
