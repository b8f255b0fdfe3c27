"""The plot of codecs: every name can be read, and the same figures give the same picture."""

from __future__ import annotations

from itertools import combinations

import pytest
from prefill_stack.codec_plot import draw, figure
from prefill_stack.label_places import Box, Label, places

POLICIES = {"exact", "near-lossless", "compact"}
MEASURED = [  # name, ratio of caches and of states, KL and its standard error
    ("raw", 1.0, 1.0, 0.0, 0.0),
    ("planes-zstd", 1.51, 1.17, 0.0, 0.0),
    ("bf16", 1.0, 2.0, 2.3e-7, 1.4e-7),
    ("int12-zstd", 1.97, 3.89, 8.4e-7, 5.1e-7),
    ("int8-row", 1.99, 3.94, 1.5e-6, 6.2e-7),
    ("fp8-row", 1.99, 3.94, 8.3e-6, 1.6e-6),
    ("hadamard-int8", 1.88, 3.94, 8.4e-7, 6.0e-7),
    ("hadamard-int4", 3.56, 7.11, 3.9e-5, 2.8e-6),
    ("exact", 1.51, 1.17, 0.0, 0.0),
    ("near-lossless", 1.97, 3.89, 8.5e-7, 5.1e-7),
    ("compact", 3.56, 7.11, 3.5e-5, 2.6e-6),
]
FIELDS = ("name", "kv_ratio", "state_ratio", "kl", "kl_standard_error")
ROWS = [dict(zip(FIELDS, each, strict=True)) for each in MEASURED]
ONE_SPOT = [{**row, "kv_ratio": 2.0, "state_ratio": 4.0, "kl": 1e-6} for row in ROWS]
FRAME = Box(0, 0, 600, 400)


def boxes(axis):
    """Where the names of an axis are, the axis itself last."""
    renderer = axis.figure.canvas.get_renderer()
    named = [*axis.texts, axis]
    return [Box(*map(float, each.get_window_extent(renderer).extents)) for each in named]


@pytest.mark.parametrize("rows", [ROWS, ONE_SPOT], ids=["as measured", "all in one spot"])
def test_no_name_lies_over_another_or_beyond_the_frame(rows):
    for axis in figure(rows, POLICIES).axes:
        *names, frame = boxes(axis)
        assert [text.get_text() for text in axis.texts] == [row["name"] for row in rows]
        assert not any(first.shared(second) for first, second in combinations(names, 2))
        assert all(box.shared(frame) == pytest.approx(box.area) for box in names)


def test_no_name_lies_over_a_point():
    for axis, ratio in zip(figure(ROWS, POLICIES).axes, ("kv_ratio", "state_ratio"), strict=True):
        *names, _ = boxes(axis)
        for row in ROWS:
            x, y = axis.transData.transform((row[ratio], max(row["kl"], 1e-8)))
            assert not any(box.shared(Box.around(x, y, 8, 8)) for box in names)


def test_names_that_are_all_put_to_the_right_are_noticed():
    """The twin: what a fixed shift makes of the same figures."""
    axis = figure(ROWS, POLICIES).axes[1]
    for row, text in zip(ROWS, axis.texts, strict=True):
        x, y = axis.transData.transform((row["state_ratio"], max(row["kl"], 1e-8)))
        text.set_position((x + 40, y + 5))
    *names, _ = boxes(axis)
    assert any(first.shared(second) for first, second in combinations(names, 2))


def test_the_same_figures_give_the_same_picture():
    first = draw(ROWS, POLICIES)
    assert first.startswith(b"\x89PNG")
    assert draw(ROWS, POLICIES) == first
    assert draw(ROWS[1:], POLICIES) != first


def test_a_name_alone_stands_to_the_right_and_by_an_edge_within_it():
    (middle,) = places([Label(300, 200, 80, 16)], [], FRAME)
    assert middle.left > 300
    assert middle.bottom + middle.top == 400
    (edge,) = places([Label(598, 399, 80, 16)], [], FRAME)
    assert edge.shared(FRAME) == edge.area


def test_where_no_place_is_free_the_least_covered_is_taken():
    half = Box(0, 0, 301, 400)
    (found,) = places([Label(20, 200, 80, 16)], [half], FRAME)
    assert found.shared(half) == found.area  # too far to leave: inside all the same
    assert found.shared(FRAME) == found.area
