"""The answer to a plan file: the best plan, what it is worth, what limits it, what to buy next."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prefill_data.planner import costs
from prefill_data.planner.errors import InfeasibleError, InvalidInputError
from prefill_data.planner.fleet import Form, Scenario
from prefill_data.planner.flows import flows_of
from prefill_data.planner.latency import (
    Ttft,
    bare_ttft,
    capacity_rps,
    greatest_rate,
    ttft,
)
from prefill_data.planner.plan import Plan
from prefill_data.planner.solver import offload_everything, solve
from prefill_data.planner.sweeps import (
    DEFAULT_VALUES,
    Axis,
    SweepPoint,
    sweep,
    whole_grid_rps,
)
from prefill_data.planner.target import TargetPlan, plan_for_target

LOADS = (0.5, 0.7, 0.85)
MORE_GBPS = 10.0
SENSITIVITY_LOAD = 0.7
TIMED_AXES = (Axis.BANDWIDTH_GBPS, Axis.RTT_MS, Axis.STATE_RATIO)


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
class KvThroughput:
    """Eqs. 1 and 2 for one remote cluster: what an instance, and all of them, put on the wire."""

    name: str
    phi_kv_gbps: float
    full_egress_gbps: float


@dataclass(frozen=True)
class SloAnswer:
    """The greatest rate of this plan that meets the P90 target, or by how much it misses when idle.

    `best` is the plan for the target, often another than that of most throughput; None if none is.
    """

    target_seconds: float
    rate_rps: float | None
    at_rate: Ttft | None
    missed_by: float | None
    problem: str = ""
    best: TargetPlan | None = None


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
    capacity_rps: float
    forms: dict[Form, float | None]
    kv_throughput: list[KvThroughput]
    whole_grid_rps: float | None
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
    capacity = capacity_rps(scenario, plan)
    rate = SENSITIVITY_LOAD * capacity
    return Answer(
        name=title.name,
        currency=title.currency,
        scenario=scenario,
        plan=plan,
        bare=bare_ttft(scenario, plan),
        homogeneous=local,
        naive=_naive(scenario),
        equal_cost=equal,
        capacity_rps=capacity,
        forms={form: _in_form(scenario, form) for form in Form},
        kv_throughput=kv_throughput(scenario, plan),
        whole_grid_rps=whole_grid_rps(scenario, plan),
        queueing=[(load, ttft(scenario, plan, load * capacity)) for load in LOADS],
        slo=_slo(scenario, plan),
        cost=costs.cost(scenario, plan, plan.lambda_rps),
        break_even_gbps=costs.break_even_gbps(scenario, reference.plan.lambda_rps)
        if reference
        else None,
        break_even_price_micros_per_hour=costs.break_even_price_micros_per_hour(scenario, plan),
        purchases=purchases(scenario, plan),
        sensitivity={
            axis: sweep(scenario, axis, values, rate if axis in TIMED_AXES else None)
            for axis, values in DEFAULT_VALUES.items()
            if scenario.prefill_clusters or axis is Axis.HIT_FRACTION
        }
        if sensitivity
        else {},
    )


def kv_throughput(scenario: Scenario, plan: Plan) -> list[KvThroughput]:
    """Of the prompts that the plan sends there; a cluster that gets none is left out."""
    found = []
    for cluster in scenario.prefill_clusters:
        flows = [f for f in flows_of(scenario, plan) if f.pool == ("prefill", cluster.name)]
        seconds = sum(f.share * float(f.weights @ f.prefill_seconds) for f in flows)
        if seconds > 0:
            payload = sum(f.share * f.wired.mean_bytes(f.weights) for f in flows if f.wired)
            gbps = payload / seconds * 8e-9
            found.append(KvThroughput(cluster.name, gbps, cluster.instances * gbps))
    return found


def _in_form(scenario: Scenario, form: Form) -> float | None:
    """The optimum in this form; None where it proves nothing (several clusters) or serves none."""
    try:
        return solve(replace(scenario, form=form)).lambda_rps
    except (InfeasibleError, InvalidInputError):  # the plan itself stands: only the twin is missing
        return None


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
    except InfeasibleError as error:  # this plan misses it; another may meet it, and is then said
        best = plan_for_target(scenario, plan, target, None)
        return SloAnswer(target, None, None, error.shortfall, str(error), best)
    best = plan_for_target(scenario, plan, target, rate)
    return SloAnswer(target, rate, ttft(scenario, plan, rate), None, "", best)
