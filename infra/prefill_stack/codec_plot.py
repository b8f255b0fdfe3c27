"""Ratio against KL, a point for each codec and policy: what a byte saved costs in quality."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prefill_stack.label_places import Box, Label, places

CODEC, POLICY = "#1f6fb4", "#d9641e"
LEAST_KL = 1e-8  # where the lossless ones are drawn: a logarithm has no 0
MARKER, PADDING, BESIDE = 12, 4, 14  # pixels: of a point, about a name, from where on a line leads
PANELS = {
    "kv_ratio": "Cache rows, bf16, 576 wide",
    "state_ratio": "Recurrent states, fp32, 128 x 128",
}


def draw(rows: Sequence[Mapping[str, Any]], policies: Collection[str]) -> bytes:
    """A PNG of `bench codec`'s rows, caches and states side by side."""
    target = io.BytesIO()
    figure(rows, policies).savefig(target, format="png")
    return target.getvalue()


def figure(rows: Sequence[Mapping[str, Any]], policies: Collection[str]) -> Any:
    """The same as matplotlib's `Figure`, its layout settled; names are its axes' `texts`."""
    # The object interface without pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(13, 5.8), dpi=120, layout="constrained")
    FigureCanvasAgg(drawn)
    axes: Any = drawn.subplots(1, 2, sharey=True)
    for axis, (ratio, title) in zip(axes, PANELS.items(), strict=True):
        for row in rows:
            _point(axis, row, ratio, row["name"] in policies)
        axis.set_yscale("log")
        axis.margins(x=0.15, y=0.12)
        axis.grid(color="#e5e7eb")
        axis.set_axisbelow(True)
        axis.set_title(title, loc="left", fontweight="bold")
        axis.set_xlabel("raw bytes over coded ones")
    axes[0].set_ylabel(f"KL, nats a position (lossless drawn at {LEAST_KL:g})")
    for kind, colour, marker in (("a codec", CODEC, "o"), ("a policy", POLICY, "D")):
        axes[0].plot([], [], marker, color=colour, label=kind)
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    drawn.draw_without_rendering()  # names are placed in pixels, so the layout comes first
    drawn.set_layout_engine("none")
    for axis, ratio in zip(axes, PANELS, strict=True):
        _name(axis, rows, ratio, policies)
    return drawn


def _point(axis: Any, row: Mapping[str, Any], ratio: str, policy: bool) -> None:
    low, kl, high = _heights(row)
    colour, marker = (POLICY, "D") if policy else (CODEC, "o")
    spread = [[kl - low], [high - kl]]
    axis.errorbar([row[ratio]], [kl], yerr=spread, fmt=marker, color=colour, capsize=3)


def _heights(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """KL less its standard error, itself, and with it, all above zero."""
    kl, error = max(row["kl"], LEAST_KL), row["kl_standard_error"]
    return kl - min(error, 0.9 * kl), kl, kl + error


def _name(
    axis: Any, rows: Sequence[Mapping[str, Any]], ratio: str, policies: Collection[str]
) -> None:
    """Write the names beside the points; a line leads to those that found no place close by."""
    renderer = axis.figure.canvas.get_renderer()
    labels, taken, texts = [], [], []
    for row in rows:
        low, at, high = ((row[ratio], height) for height in _heights(row))
        points = [tuple(map(float, axis.transData.transform(each))) for each in (low, at, high)]
        (x, bottom), (_, y), (_, top) = points
        colour = POLICY if row["name"] in policies else CODEC
        text = axis.text(0, 0, row["name"], color=colour, transform=None, ha="center", va="center")
        extent = text.get_window_extent(renderer)
        labels.append(Label(x, y, extent.width + PADDING, extent.height + PADDING))
        taken += [Box.around(x, y, MARKER, MARKER), Box(x - 4, bottom, x + 4, top)]
        texts.append(text)
    frame = axis.get_window_extent(renderer)
    for label, text, box in zip(
        labels, texts, places(labels, taken, Box(*map(float, frame.extents))), strict=True
    ):
        text.set_position(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
        ends = [min(max(at, low), high) for at, low, high in _sides(label, box)]
        if max(abs(ends[0] - label.x), abs(ends[1] - label.y)) > BESIDE:
            line = ([label.x, ends[0]], [label.y, ends[1]])
            axis.plot(*line, color=text.get_color(), lw=0.7, transform=None, zorder=1)


def _sides(label: Label, box: Box) -> tuple[tuple[float, float, float], ...]:
    """For x and y: where the point is, and the sides of the name's rectangle."""
    return (label.x, box.left, box.right), (label.y, box.bottom, box.top)
