"""The four panels: right axes, right curves, both formats, and nothing loaded from outside."""

import re

import numpy as np
import pytest
from prefill_data.planner.answers import Title, answer
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.loading import load_case
from prefill_data.planner.page import page
from prefill_data.planner.plot import plot
from prefill_data.planner.report import document


@pytest.fixture(scope="module")
def found():
    return answer(load_case("paper")[1], Title("paper"), sensitivity=False)


@pytest.fixture(scope="module")
def panels(found):
    """The four axes of a figure that is drawn for real."""
    from matplotlib.figure import Figure
    from prefill_data.planner import plot as module

    figure = Figure()
    axes = figure.subplots(2, 2)
    for draw, place in (
        (module._thresholds, axes[0, 0]),
        (module._bandwidth, axes[0, 1]),
        (module._latency, axes[1, 0]),
        (module._cost, axes[1, 1]),
    ):
        draw(found, place)
    return axes.ravel().tolist()


def curve(axes, label):
    line = next(line for line in axes.get_lines() if label in str(line.get_label()))
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_three_stage_curves_meet_at_the_plan(found, panels):
    axes = panels[0]
    threshold = found.plan.locals[0].threshold_tokens / 1000
    for label in ("remote prefill", "local prefill"):
        x, y = curve(axes, label)
        assert np.interp(threshold, x, y) == pytest.approx(found.plan.lambda_rps, rel=0.01)
    _, decode = curve(axes, "decode")
    assert decode == pytest.approx(found.plan.locals[0].theta_pd_d)


def test_every_panel_says_what_it_shows(panels):
    for axes in panels:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title(loc="left") or axes.get_title()
        assert axes.get_legend() is not None


def test_rate_never_falls_with_bandwidth_and_ttft_never_with_rate(panels):
    _, bandwidth, latency, cost = panels
    rate = np.asarray(bandwidth.get_lines()[0].get_ydata(), float)
    assert np.all(np.diff(rate) >= -1e-9)
    for label in ("P90", "mean"):
        _, seconds = curve(latency, label)
        assert np.all(np.diff(seconds) >= -1e-6)
    _, money = curve(cost, "this plan")
    assert np.all(np.diff(money) <= 0)


def test_png_and_html(found, tmp_path):
    plot(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plot(found, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert found.name in page
    assert not re.findall(r'(?:src|href)="https?:', page)
    assert "<script" not in page
    with pytest.raises(InvalidInputError, match=r"a\.pdf"):
        plot(found, tmp_path / "a.pdf")


def test_a_name_cannot_become_markup(found):
    figures = document(found) | {"plan": "<script>x</script>"}
    assert "<script" not in page(figures, "<svg></svg>")
