"""Four panels of an answer as PNG, or as one HTML page with the JSON below them.

matplotlib is imported when a plot is asked for, never with the model.
"""

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefill_data.planner.answers import Answer
from prefill_data.planner.costs import cost
from prefill_data.planner.demand import demand
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.grid import stage_rates
from prefill_data.planner.latency import ttft
from prefill_data.planner.report import document
from prefill_data.planner.sweeps import Axis, sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANDWIDTHS_GBPS = tuple(float(v) for v in np.geomspace(1, 200, 25))
LOADS = tuple(float(v) for v in np.linspace(0.05, 0.95, 19))


def plot(answer: Answer, path: Path) -> None:
    """Write the figure. Raises InvalidInputError for a suffix other than .png and .html."""
    if path.suffix not in (".png", ".html"):
        raise InvalidInputError("--plot", f"{path.name!r}", "name a .png or .html file")
    image = _png(answer)
    if path.suffix == ".png":
        path.write_bytes(image)
    else:
        path.write_text(_page(answer, image), encoding="utf-8")


def _png(answer: Answer) -> bytes:
    # The object interface without pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, 2)
    figure.suptitle(f"{answer.name}: {answer.plan.lambda_rps:.2f} requests/s")
    _thresholds(answer, axes[0, 0])
    _bandwidth(answer, axes[0, 1])
    _latency(answer, axes[1, 0])
    _cost(answer, axes[1, 1])
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def _thresholds(answer: Answer, axes: "Axes") -> None:
    """Arrival rate each stage carries against t, at the chosen split (of the first cluster)."""
    scenario, plan = answer.scenario, answer.plan
    local = plan.locals[0]
    rates = stage_rates(scenario, demand(scenario, scenario.local_clusters[0]))
    share = scenario.local_clusters[0].share
    x = rates.thresholds_tokens / 1000
    top = 2.5 * local.theta_pd_d
    for label, y in (
        ("remote prefill and egress: Theta_prfaas/p", rates.remote_rps),
        ("local prefill: Theta_pd_p/(1-p)", rates.local_rps[local.n_p]),
        ("decode: Theta_pd_d", np.full_like(x, local.theta_pd_d)),
    ):
        axes.plot(x, np.clip(y, 0, top), label=label)
    axes.axvline(local.threshold_tokens / 1000, linestyle="--", color="grey")
    axes.plot(local.threshold_tokens / 1000, plan.lambda_rps * share, "ko", label="the plan")
    axes.set(
        xlabel=f"threshold t of {local.name} (thousand tokens)",
        ylabel="requests/s",
        ylim=(0, top),
        title=f"What each stage carries for {local.name}",
    )
    axes.legend(fontsize="small")


def _bandwidth(answer: Answer, axes: "Axes") -> None:
    if not answer.scenario.links:
        axes.text(0.5, 0.5, "no links", ha="center", transform=axes.transAxes)
        return
    points = sweep(answer.scenario, Axis.BANDWIDTH_GBPS, BANDWIDTHS_GBPS)
    axes.semilogx([p.value for p in points], [p.lambda_rps for p in points], label="re-optimised")
    for comparison, label, colour in (
        (answer.homogeneous, "local only, as many GPUs", "tab:green"),
        (answer.equal_cost, "local only, same money", "tab:red"),
    ):
        if comparison:
            rate = comparison.plan.lambda_rps
            axes.axhline(rate, linestyle=":", color=colour, label=label)
    axes.set(xlabel="link bandwidth (Gbit/s)", ylabel="requests/s", title="Rate against bandwidth")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _latency(answer: Answer, axes: "Axes") -> None:
    rates = [load * answer.plan.lambda_rps for load in LOADS]
    times = [ttft(answer.scenario, answer.plan, rate) for rate in rates]
    axes.plot(rates, [t.mean_seconds for t in times], label="mean")
    axes.plot(rates, [t.p90_seconds for t in times], label="P90")
    axes.axhline(answer.bare.p90_seconds, linestyle=":", label="P90, prefill alone")
    if answer.slo is not None:
        axes.axhline(answer.slo.target_seconds, color="red", linestyle="--", label="P90 target")
    axes.set(xlabel="requests/s", ylabel="seconds", title="TTFT with queueing, transfer and RTT")
    axes.set_ylim(0, 5 * answer.bare.p90_seconds)
    axes.legend(fontsize="small")


def _cost(answer: Answer, axes: "Axes") -> None:
    axes.set(xlabel="requests/s", title="Cost")
    if answer.cost.per_million_input_tokens_micros is None:
        axes.text(0.5, 0.5, "no prices given", ha="center", transform=axes.transAxes)
        return
    rates = [load * answer.plan.lambda_rps for load in LOADS]
    costs = [cost(answer.scenario, answer.plan, rate) for rate in rates]
    axes.plot(rates, [(c.per_million_input_tokens_micros or 0) * 1e-6 for c in costs])
    axes.set_ylabel(f"{answer.currency} per million input tokens")
    axes.set_ylim(bottom=0)


def _page(answer: Answer, image: bytes) -> str:
    figures = document(answer)
    encoded = base64.b64encode(image).decode("ascii")
    title = html.escape(answer.name)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{title}</title><h1>{title}</h1><p>{html.escape(str(figures['advice']))}</p>"
        f'<img alt="four panels of the plan" src="data:image/png;base64,{encoded}">'
        f"<pre>{html.escape(json.dumps(figures, indent=2))}</pre></html>\n"
    )
