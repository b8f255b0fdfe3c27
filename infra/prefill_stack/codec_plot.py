"""Ratio against KL, a point for each codec and policy: what a byte saved costs in quality."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

CODEC, POLICY = "#1f6fb4", "#d9641e"
LEAST_KL = 1e-8  # where the lossless ones are drawn: a logarithm has no 0


def draw(rows: Sequence[Mapping[str, Any]], policies: Collection[str]) -> bytes:
    """A PNG of `bench codec`'s rows, caches and states side by side."""
    # The object interface without pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 2, sharey=True)
    for axis, ratio, title in zip(
        axes,
        ("kv_ratio", "state_ratio"),
        ("Cache rows, bf16, 576 wide", "Recurrent states, fp32, 128 x 128"),
        strict=True,
    ):
        for row in rows:
            policy = row["name"] in policies
            x, kl = row[ratio], max(row["kl"], LEAST_KL)
            spread = [[min(row["kl_standard_error"], 0.9 * kl)], [row["kl_standard_error"]]]
            colour, marker = (POLICY, "D") if policy else (CODEC, "o")
            axis.errorbar([x], [kl], yerr=spread, fmt=marker, color=colour, capsize=3)
            shift = (7, -12) if policy else (7, 5)
            axis.annotate(
                row["name"], (x, kl), xytext=shift, textcoords="offset points", color=colour
            )
        axis.set_yscale("log")
        axis.margins(x=0.2, y=0.15)
        axis.grid(color="#e5e7eb")
        axis.set_axisbelow(True)
        axis.set_title(title, loc="left", fontweight="bold")
        axis.set_xlabel("raw bytes over coded ones")
    axes[0].set_ylabel(f"KL, nats a position (lossless drawn at {LEAST_KL:g})")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()
