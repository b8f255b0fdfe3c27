"""Where the names of points go on a plot: beside them, over nothing else, always the same way.

Lengths are pixels, y upwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import cos, pi, sin
from typing import NamedTuple

RADII = (7, 16, 28, 44, 64, 90)  # from a point to the near edge of its name
DIRECTIONS = 16  # the first to the right, then by turns above and below
FRAME = 50.0  # what a pixel outside costs; one over something costs 1


class Box(NamedTuple):
    """A rectangle along the axes."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """The rectangle of this size about a middle."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.right - self.left) * (self.top - self.bottom)

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)


class Label(NamedTuple):
    """A name's size and the middle of its point."""

    x: float
    y: float
    width: float
    height: float


def places(labels: Sequence[Label], taken: Iterable[Box], frame: Box) -> list[Box]:
    """A rectangle for each label, in their order: within the frame and off what is `taken`.

    Each takes the nearest place that is free of the names before it, or the one least covered.
    """
    covered, found = list(taken), []
    for label in labels:
        best = min(_around(label), key=lambda box: _cost(box, covered, frame))
        covered.append(best)
        found.append(best)
    return found


def _around(label: Label) -> Iterator[Box]:
    """Places about a point, the nearest first: `min` keeps the first of equals."""
    for radius in RADII:
        for turn in range(DIRECTIONS):
            angle = pi * ((turn + 1) // 2) * (-1) ** (turn + 1) * 2 / DIRECTIONS
            x = label.x + cos(angle) * (radius + label.width / 2)
            y = label.y + sin(angle) * (radius + label.height / 2)
            yield Box.around(x, y, label.width, label.height)


def _cost(box: Box, covered: Iterable[Box], frame: Box) -> float:
    outside = box.area - box.shared(frame)
    return FRAME * outside + sum(box.shared(each) for each in covered)
