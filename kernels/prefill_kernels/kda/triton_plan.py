"""How packed sequences are cut into chunks, and chunks into runs that share scratch memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

CHUNK_TOKENS = 64
NO_BOUND = -1


class Chunk(NamedTuple):
    """Tokens that are worked on together: the first, how many, and the bound at their end."""

    start: int
    length: int
    bound: int = NO_BOUND


class Walk(NamedTuple):
    """The chunks `first` to `end` (exclusive) of one sequence, in order."""

    sequence: int
    first: int
    end: int


class Run(NamedTuple):
    """Chunks whose scratch exists at the same time, and the walks over them (from 0 again)."""

    chunks: list[Chunk]
    walks: list[Walk]


def cut(starts: Sequence[int], bounds: Sequence[int]) -> tuple[list[Chunk], list[Walk]]:
    """Chunks of up to 64 tokens that end at every bound and at the end of every sequence.

    `starts` and `bounds` as in `prefill_kda`, already checked. Bounds at multiples of 64 from a
    sequence's start, as a cache's blocks are, cost no short chunks.
    """
    numbers = {bound: number for number, bound in enumerate(bounds)}
    chunks: list[Chunk] = []
    walks = []
    for sequence, (start, end) in enumerate(pairwise(starts)):
        first = len(chunks)
        stops = [start, *(bound for bound in bounds if start < bound < end), end]
        for begin, stop in pairwise(stops):
            for at in range(begin, stop, CHUNK_TOKENS):
                last = min(at + CHUNK_TOKENS, stop)
                chunks.append(Chunk(at, last - at, numbers.get(last, NO_BOUND)))
        walks.append(Walk(sequence, first, len(chunks)))
    return chunks, walks


def runs(chunks: list[Chunk], walks: list[Walk], most: int) -> Iterator[Run]:
    """At most `most` chunks at a time, in order: a sequence cut by it goes on from its state."""
    for begin in range(0, len(chunks), most):
        end = min(begin + most, len(chunks))
        inside = [
            Walk(walk.sequence, max(walk.first, begin) - begin, min(walk.end, end) - begin)
            for walk in walks
            if walk.first < end and walk.end > begin
        ]
        yield Run(chunks[begin:end], inside)
