"""How sequences are cut into chunks and chunks into runs."""

from __future__ import annotations

import pytest
from prefill_kernels.kda.triton_plan import Chunk, Walk, cut, runs


def test_chunks_end_at_every_bound_and_end():
    chunks, walks = cut([0, 1, 130, 200], [64, 130, 150])
    assert chunks == [
        Chunk(0, 1),
        Chunk(1, 63, 0),
        Chunk(64, 64),
        Chunk(128, 2, 1),
        Chunk(130, 20, 2),
        Chunk(150, 50),
    ]
    assert walks == [Walk(0, 0, 1), Walk(1, 1, 4), Walk(2, 4, 6)]


def test_bounds_at_blocks_cost_no_short_chunks():
    chunks, _ = cut([0, 256], [64, 128, 192, 256])
    assert [chunk.length for chunk in chunks] == [64] * 4
    assert [chunk.bound for chunk in chunks] == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_runs_cover_every_chunk_once_and_each_sequence_in_order(most):
    chunks, walks = cut([0, 1, 300, 400, 401], [150, 400])
    done, per_sequence = [], {walk.sequence: [] for walk in walks}
    for run in runs(chunks, walks, most):
        assert len(run.chunks) <= most
        for walk in run.walks:
            per_sequence[walk.sequence] += run.chunks[walk.first : walk.end]
        done += run.chunks
    assert done == chunks
    for walk in walks:
        assert per_sequence[walk.sequence] == chunks[walk.first : walk.end]
