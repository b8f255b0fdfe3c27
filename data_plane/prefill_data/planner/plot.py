"""Four panels of an answer: what the stages carry, what bandwidth buys, TTFT, money.

matplotlib is imported when a plot is asked for, never with the model.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefill_data.planner.answers import Answer, Comparison
from prefill_data.planner.costs import cost
from prefill_data.planner.curves import Floats
from prefill_data.planner.demand import demand
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.grid import stage_rates
from prefill_data.planner.latency import ttft
from prefill_data.planner.page import page
from prefill_data.planner.report import document, place
from prefill_data.planner.sweeps import Axis, sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".html")
BANDWIDTHS_GBPS = tuple(float(v) for v in np.geomspace(1, 200, 41))
# Of the capacity; dense where the queue explodes.
LOADS = tuple(float(v) for v in 1 - np.geomspace(0.98, 0.03, 28))
REMOTE, LOCAL, DECODE, MONEY, QUIET = "#1f6fb4", "#d9641e", "#2b8a4b", "#8a4baf", "#6b7280"
STYLE: Any = {
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "legend.fontsize": 9.5,
    "svg.hashsalt": "prefill-cloud",
}


def plot(answer: Answer, path: Path) -> None:
    """Write the figure, or a page with it; refuses what `check_target` refuses."""
    check_target(path)
    if path.suffix == ".png":
        path.write_bytes(_image(answer, "png"))
    else:
        drawing = _image(answer, "svg").decode("utf-8")
        path.write_text(page(document(answer), drawing), encoding="utf-8")


def check_target(path: Path) -> None:
    """Raise InvalidInputError unless this is a .png or .html file in a folder that is there."""
    if path.suffix not in SUFFIXES:
        raise InvalidInputError("--plot", f"{path.name!r}", "name a .png or .html file")
    if not path.parent.is_dir():
        raise InvalidInputError("--plot", f"no folder {str(path.parent)!r}", "make it first")


def _image(answer: Answer, kind: str) -> bytes:
    # The object interface without pyplot: no display, no global state.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(13, 9), layout="constrained")
        FigureCanvasAgg(figure)
        axes: Any = figure.subplots(2, 2)
        figure.suptitle(
            f"{answer.name}: {answer.plan.lambda_rps:.2f} requests/s, limited by "
            f"{place(answer.plan.limit)}",
            fontsize=15,
            fontweight="bold",
        )
        _thresholds(answer, axes[0, 0])
        _bandwidth(answer, axes[0, 1])
        _latency(answer, axes[1, 0])
        _cost(answer, axes[1, 1])
        target = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(target, format=kind, dpi=120, metadata=metadata)
    return target.getvalue()


def _thresholds(answer: Answer, axes: "Axes") -> None:
    """Arrivals that each stage carries against t, at the plan's split (of the first cluster).

    With several local clusters: as if the first had the remote machines for itself.
    """
    scenario, plan = answer.scenario, answer.plan
    local, share = plan.locals[0], scenario.local_clusters[0].share
    axes.set_title(
        f"Throughput against the threshold, {local.n_p} + {local.n_d} machines of {local.name}"
    )
    if not scenario.prefill_clusters:
        _nothing(axes, "the plan has no remote machines")
        return
    rates = stage_rates(scenario, demand(scenario, scenario.local_clusters[0]))
    x, threshold = rates.thresholds_tokens / 1000, local.threshold_tokens / 1000
    carried = np.full_like(x, local.theta_pd_d)
    total = np.minimum(np.minimum(rates.remote_rps, rates.local_rps[local.n_p]), carried)
    last = max(2.5 * threshold, min(float(x[-1]), 60.0), 1.0)
    top = 2.9 * max(local.theta_pd_d, plan.lambda_rps * share)
    axes.fill_between(x, total, color="#eef2f7", label="what all three carry")
    _clipped(axes, (x, rates.remote_rps, top), REMOTE, "remote prefill and wire, Θ$_{prfaas}$ / p")
    _clipped(
        axes, (x, rates.local_rps[local.n_p], top), LOCAL, "local prefill, Θ$_{pd-p}$ / (1 − p)"
    )
    _clipped(axes, (x, carried, top), DECODE, "decode, Θ$_{pd-d}$")
    best = plan.lambda_rps * share
    axes.plot([threshold], [best], "o", color="black", markersize=7, zorder=5)
    axes.annotate(
        f"t = {local.threshold_tokens:,}\n{best:.2f} requests/s",
        (threshold, best),
        xytext=(-8, -40) if threshold > 0.25 * last else (10, -40),
        textcoords="offset points",
        ha="right" if threshold > 0.25 * last else "left",
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
    )
    axes.set(
        xlabel="threshold t (thousand uncached tokens)",
        ylabel="requests/s",
        ylim=(0, top),
        xlim=(0, last),
    )
    axes.legend(loc="upper right")


def _clipped(axes: "Axes", curve: tuple[Floats, Floats, float], colour: str, label: str) -> None:
    x, y, top = curve
    axes.plot(x, np.where(y <= 1.2 * top, y, np.nan), color=colour, label=label)


def _bandwidth(answer: Answer, axes: "Axes") -> None:
    axes.set(xlabel="bandwidth of every link (Gbit/s)", ylabel="requests/s")
    axes.set_title("Rate against bandwidth, re-optimised")
    if not answer.scenario.links:
        _nothing(axes, "the plan has no links")
        return
    points = sweep(answer.scenario, Axis.BANDWIDTH_GBPS, BANDWIDTHS_GBPS)
    axes.semilogx([p.value for p in points], [p.lambda_rps for p in points], color=REMOTE)
    whole = [p.whole_grid_rps or p.lambda_rps for p in points]
    if any(p.whole_grid_rps for p in points):
        label = f"with thresholds above {answer.scenario.search.last_tokens:,} tokens"
        axes.semilogx(
            [p.value for p in points], whole, "--", color=REMOTE, linewidth=1.3, label=label
        )
    _level(axes, answer.homogeneous, "local only, as many GPUs", QUIET)
    _level(axes, answer.equal_cost, "local only, same money", MONEY)
    has = min(link.bandwidth_gbps for link in answer.scenario.links)
    axes.axvline(has, color="black", linewidth=1, linestyle=":", label="the narrowest link today")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100, 200], ["1", "2", "5", "10", "20", "50", "100", ""])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")


def _level(axes: "Axes", comparison: Comparison | None, label: str, colour: str) -> None:
    if comparison:
        axes.axhline(comparison.plan.lambda_rps, color=colour, linewidth=1.5, label=label)


def _latency(answer: Answer, axes: "Axes") -> None:
    rates = [load * answer.capacity_rps for load in LOADS]
    times = [ttft(answer.scenario, answer.plan, rate) for rate in rates]
    axes.plot(rates, [t.p90_seconds for t in times], color=LOCAL, label="P90")
    mean = np.array([t.mean_seconds for t in times])
    queue = np.array([t.queue_seconds for t in times])
    axes.plot(rates, mean, color=REMOTE, label="mean")
    axes.fill_between(rates, mean - queue, mean, color=REMOTE, alpha=0.15, label="of it, queueing")
    axes.axhline(answer.bare.p90_seconds, color=QUIET, linestyle=":", label="P90 of prefill alone")
    top = 4 * answer.bare.p90_seconds
    if answer.slo is not None:
        top = max(top, 1.5 * answer.slo.target_seconds)
        axes.axhline(answer.slo.target_seconds, color="#c62828", linewidth=1.2, label="P90 target")
        if answer.slo.rate_rps is not None:
            axes.plot([answer.slo.rate_rps], [answer.slo.target_seconds], "o", color="black")
            axes.annotate(
                f"{answer.slo.rate_rps:.2f} requests/s",
                (answer.slo.rate_rps, answer.slo.target_seconds),
                xytext=(-8, 8),
                textcoords="offset points",
                ha="right",
            )
    axes.axvline(answer.capacity_rps, color="black", linewidth=1, linestyle=":")
    axes.set(
        xlabel="requests/s (dotted: the queue grows without end)",
        ylabel="seconds",
        title="TTFT against rate: queue, prefill, wire and RTT",
        ylim=(0, top),
        xlim=(0, 1.03 * answer.capacity_rps),
    )
    axes.legend(loc="upper left")


def _cost(answer: Answer, axes: "Axes") -> None:
    axes.set(xlabel="requests/s", title="Cost against rate")
    if answer.cost.per_million_input_tokens_micros is None:
        _nothing(axes, "the plan names no prices")
        return
    axes.set_ylabel(f"{answer.currency} per million input tokens")
    fleets = [("this plan", Comparison(answer.scenario, answer.plan, answer.bare), REMOTE)]
    for name, fleet, colour in (
        ("local only, as many GPUs", answer.homogeneous, QUIET),
        ("local only, same money", answer.equal_cost, MONEY),
    ):
        if fleet is not None:
            fleets.append((name, fleet, colour))
    lowest = []
    for name, fleet, colour in fleets:
        rates = np.linspace(0.05, 1, 60) * fleet.plan.lambda_rps
        money = [_per_million(fleet, float(rate)) for rate in rates]
        axes.plot(rates, money, color=colour, label=name)
        axes.plot(rates[-1:], money[-1:], "o", color=colour, markersize=6)
        lowest.append(money[-1])
    axes.set_ylim(0, 6 * max(lowest))
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", title="up to what each carries")


def _per_million(fleet: Comparison, rate_rps: float) -> float:
    micros = cost(fleet.scenario, fleet.plan, rate_rps).per_million_input_tokens_micros
    return 0.0 if micros is None else micros * 1e-6


def _nothing(axes: "Axes", text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", color=QUIET, transform=axes.transAxes)
