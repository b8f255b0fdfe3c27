"""An answer as one JSON object, and its last line as one sentence of advice. No number is NaN."""

import math
from dataclasses import asdict
from typing import Any

from prefill_data.planner.answers import Answer, Comparison, SloAnswer
from prefill_data.planner.fleet import LocalCluster
from prefill_data.planner.latency import Ttft
from prefill_data.planner.plan import Plan
from prefill_data.planner.target import WORTH, TargetPlan

FIGURES = (
    "threshold_tokens",
    "n_prfaas",
    "n_p",
    "n_d",
    "theta_prfaas",
    "theta_pd_p",
    "theta_pd_d",
    "lambda_rps",
    "ratio_homogeneous",
    "ratio_naive",
    "ttft_mean_seconds",
    "ttft_p90_seconds",
    "egress_gbps",
    "equal_cost_ratio",
    "long_fraction",
    "mean_long_tokens",
)
COMPARED = (
    "n_prfaas",
    "n_p",
    "n_d",
    "theta_prfaas",
    "theta_pd_p",
    "theta_pd_d",
    "lambda_rps",
    "ttft_mean_seconds",
    "ttft_p90_seconds",
    "egress_gbps",
)


def document(answer: Answer) -> dict[str, Any]:
    """The JSON object of `prefill-cloud plan --json`; figures by the names of the paper's table.

    `ttft_*` at the top count prefill alone, as that table does; `queueing` counts everything.
    """
    plan = answer.plan
    result: dict[str, Any] = {"plan": answer.name, "form": str(answer.scenario.form)}
    result |= _figures(answer)
    result["basis"] = _basis(answer)
    result["homogeneous"] = _compared(answer.homogeneous)
    result["naive"] = _compared(answer.naive)
    result["equal_cost"] = _compared(answer.equal_cost)
    result["clusters"] = [
        asdict(local) | _prompts(cluster)
        for local, cluster in zip(plan.locals, answer.scenario.local_clusters, strict=True)
    ]
    result["offload_shares"] = _shares(answer)
    result["utilisation"] = {place(key): u for key, u in plan.utilisation.items()}
    result["limit"] = place(plan.limit)
    result["proof"] = asdict(plan.proof) if plan.proof else None
    result["capacity_rps"] = answer.capacity_rps
    result["forms"] = {str(form): rate for form, rate in answer.forms.items()}
    result["whole_grid_rps"] = answer.whole_grid_rps
    result["kv_throughput"] = [asdict(each) for each in answer.kv_throughput]
    result["queueing"] = [
        {"load": load, "rate_rps": load * answer.capacity_rps, **asdict(times)}
        for load, times in answer.queueing
    ]
    result["slo"] = _slo(answer.slo)
    result["cost"] = {"currency": answer.currency, **asdict(answer.cost)}
    result["break_even_gbps"] = answer.break_even_gbps
    result["break_even_price_micros_per_hour"] = answer.break_even_price_micros_per_hour
    result["purchases"] = [asdict(purchase) for purchase in answer.purchases]
    result["sensitivity"] = {
        str(axis): [asdict(p) | {"thresholds_tokens": list(p.thresholds_tokens)} for p in points]
        for axis, points in answer.sensitivity.items()
    }
    result["advice"] = advice(answer)
    _require_finite(result)
    return result


def advice(answer: Answer) -> str:
    """One sentence: what to run, what it is worth, what limits it and what to buy next."""
    plan, purchases = answer.plan, [p for p in answer.purchases if p.gain_rps > 1e-6]
    worth = _ratio(plan, answer.equal_cost or answer.homogeneous)
    against = "the same money" if answer.equal_cost else "as many GPUs"
    if not answer.scenario.prefill_clusters or all(c.long_fraction == 0 for c in plan.locals):
        start = f"Prefill everything locally: that carries {plan.lambda_rps:.2f} requests/s"
    elif worth is not None and worth < 1:
        start = (
            f"Do not offload: {plan.lambda_rps:.2f} requests/s is {worth:.2f}x of what {against} "
            "in local machines carries"
        )
    else:
        start = "Offload " + " and ".join(
            f"prompts of {c.name} above {c.threshold_tokens:,} tokens "
            f"({c.n_p} local machines prefill, {c.n_d} decode)"
            for c in plan.locals
        )
        start += f": {plan.lambda_rps:.2f} requests/s"
        start += f", {worth:.2f}x of {against} without it" if worth is not None else ""
    return f"{start}; the limit is {place(plan.limit)}, " + _next(answer, purchases) + "."


def place(resource: tuple[str, str]) -> str:
    """A resource in words, such as `decode at pd`."""
    kind, name = resource
    return f"{kind} {name}" if kind == "link" else f"{kind} at {name}"


def _next(answer: Answer, purchases: list[Any]) -> str:
    slo = answer.slo
    if slo is not None and slo.rate_rps is None and slo.missed_by is not None:
        missed = f"and the P90 target is missed by {slo.missed_by:.0%} even when idle"
        return missed + (f", but met at {_roles(slo.best)}" if slo.best else "")
    text = "and no single purchase helps"
    if purchases:
        gain = purchases[0].gain_rps / answer.plan.lambda_rps
        text = f"and the best next purchase is {purchases[0].what} (+{gain:.1%})"
    if slo is not None and slo.rate_rps is not None:
        text += f"; with queueing, plan for {slo.rate_rps:.2f} requests/s to keep "
        text += f"P90 TTFT at {slo.target_seconds:g} s"
        if slo.best and slo.best.rate_rps > slo.rate_rps * WORTH:
            text += f", or {_roles(slo.best)}"
    return text


def _roles(best: TargetPlan) -> str:
    """A plan for a target in words: its rate, then each cluster's threshold and machines."""
    clusters = " and ".join(
        f"{c.name} offloading above {c.threshold_tokens:,} tokens, {c.n_p} prefilling"
        for c in best.plan.locals
    )
    return f"{best.rate_rps:.2f} with {clusters}"


def _figures(answer: Answer) -> dict[str, Any]:
    plan, first = answer.plan, answer.plan.locals[0]
    single = len(plan.locals) == 1
    values = {
        "threshold_tokens": first.threshold_tokens if single else None,
        "n_prfaas": sum(c.instances for c in answer.scenario.prefill_clusters),
        "n_p": plan.n_p,
        "n_d": plan.n_d,
        "theta_prfaas": plan.theta_prfaas,
        "theta_pd_p": sum(local.theta_pd_p for local in plan.locals),
        "theta_pd_d": sum(local.theta_pd_d for local in plan.locals),
        "lambda_rps": plan.lambda_rps,
        "ratio_homogeneous": _ratio(plan, answer.homogeneous),
        "ratio_naive": _over(answer.naive, answer.homogeneous),
        "ttft_mean_seconds": answer.bare.mean_seconds,
        "ttft_p90_seconds": answer.bare.p90_seconds,
        "egress_gbps": plan.egress_gbps,
        "equal_cost_ratio": _ratio(plan, answer.equal_cost),
        "long_fraction": first.long_fraction if single else None,
        "mean_long_tokens": first.mean_long_tokens if single else None,
    }
    return {name: values[name] for name in FIGURES}


def _basis(answer: Answer) -> dict[str, str]:
    """Whether a figure could have come out otherwise, or its curve was inverted from it.

    Figures of the compared fleets are named `homogeneous.lambda_rps` and so on.
    """
    clusters = answer.scenario.clusters
    calibrated = {figure for cluster in clusters for figure in cluster.hardware.calibrated}
    names = list(FIGURES)
    for fleet in ("homogeneous", "naive"):
        names += [f"{fleet}.{name}" for name in COMPARED]
    return {
        name: "calibrated" if name.rpartition(".")[2] in calibrated else "independent"
        for name in names
    }


def _compared(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    plan = comparison.plan
    values = {
        "n_prfaas": sum(c.instances for c in comparison.scenario.prefill_clusters),
        "n_p": plan.n_p,
        "n_d": plan.n_d,
        "theta_prfaas": plan.theta_prfaas,
        "theta_pd_p": sum(local.theta_pd_p for local in plan.locals),
        "theta_pd_d": sum(local.theta_pd_d for local in plan.locals),
        "lambda_rps": plan.lambda_rps,
        "ttft_mean_seconds": comparison.bare.mean_seconds,
        "ttft_p90_seconds": comparison.bare.p90_seconds,
        "egress_gbps": plan.egress_gbps,
    }
    return {name: values[name] for name in COMPARED} | {"limit": place(plan.limit)}


def _prompts(cluster: LocalCluster) -> dict[str, Any]:
    """The workload as planned: what a prefix cache leaves to compute."""
    lengths = cluster.lengths
    return {
        "mean_uncached_tokens": lengths.mean_tokens,
        "mean_total_tokens": lengths.mean_total_tokens,
        "cached_fraction": 1 - lengths.mean_tokens / lengths.mean_total_tokens,
        "block_hit_fraction": lengths.block_hit_fraction,
    }


def _shares(answer: Answer) -> dict[str, dict[str, float]]:
    remotes = answer.scenario.prefill_clusters
    return {
        cluster.name: {
            remote.name: float(answer.plan.shares[i, j]) for i, remote in enumerate(remotes)
        }
        for j, cluster in enumerate(answer.scenario.local_clusters)
    }


def _slo(slo: SloAnswer | None) -> dict[str, Any] | None:
    if slo is None:
        return None
    return {
        "ttft_p90_target_seconds": slo.target_seconds,
        "rate_rps": slo.rate_rps,
        "ttft": _times(slo.at_rate),
        "missed_by": slo.missed_by,
        "problem": slo.problem,
        "best": _best(slo.best),
    }


def _best(best: TargetPlan | None) -> dict[str, Any] | None:
    """The plan for the target: its rate, thresholds and roles."""
    if best is None:
        return None
    kept = ("name", "threshold_tokens", "n_p", "n_d")
    clusters = [{name: getattr(local, name) for name in kept} for local in best.plan.locals]
    return {"rate_rps": best.rate_rps, "clusters": clusters}


def _times(times: Ttft | None) -> dict[str, float] | None:
    return asdict(times) if times is not None else None


def _ratio(plan: Plan, comparison: Comparison | None) -> float | None:
    return plan.lambda_rps / comparison.plan.lambda_rps if comparison else None


def _over(first: Comparison | None, second: Comparison | None) -> float | None:
    return first.plan.lambda_rps / second.plan.lambda_rps if first and second else None


def _require_finite(value: Any) -> None:
    """A number that JSON cannot hold is a bug, and said so here."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            _require_finite(each)
    if isinstance(value, float) and not math.isfinite(value):
        raise ArithmeticError(f"a figure came out as {value}")
