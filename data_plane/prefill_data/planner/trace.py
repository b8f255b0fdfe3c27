"""Prefix reuse in a trace: which blocks of each prompt an infinite cache would already hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.lengths import Lengths, from_samples


@dataclass(frozen=True)
class TraceRequest:
    """One request: tokens in and out, and the chained hashes of its blocks."""

    input_tokens: int
    output_tokens: int
    block_hashes: tuple[int, ...]


@dataclass(frozen=True)
class TraceReuse:
    """What an infinite prefix cache saves: `cached_tokens` has one entry a request, in order."""

    cached_tokens: tuple[int, ...]
    hit_blocks: int
    blocks: int

    @property
    def hit_fraction(self) -> float:
        return self.hit_blocks / self.blocks if self.blocks else 0.0


def prefix_reuse(requests: Sequence[TraceRequest], block_tokens: int) -> TraceReuse:
    """Replay the trace against a cache that never evicts.

    Hashes are chained, so the cached prefix is the run of leading blocks seen before. A request
    always keeps one token to compute: the decode node needs it (handoff at N-1).
    """
    seen: set[int] = set()
    cached, hit_blocks = [], 0
    for request in requests:
        run = 0
        for block in request.block_hashes:
            if block not in seen:
                break
            run += 1
        hit_blocks += run
        cached.append(min(run * block_tokens, request.input_tokens - 1))
        seen.update(request.block_hashes)
    blocks = sum(len(request.block_hashes) for request in requests)
    return TraceReuse(tuple(cached), hit_blocks, blocks)


def trace_lengths(requests: Sequence[TraceRequest], block_tokens: int, *, reuse: bool) -> Lengths:
    """The trace's uncached lengths, with or without the infinite prefix cache."""
    if block_tokens < 1 or not requests:
        raise InvalidInputError(
            "workload", f"{len(requests)} requests in blocks of {block_tokens}", "give a trace"
        )
    total = np.array([request.input_tokens for request in requests], dtype=np.float64)
    output = np.array([request.output_tokens for request in requests], dtype=np.float64)
    if not reuse:
        return from_samples(total, total, output)
    replayed = prefix_reuse(requests, block_tokens)
    plain = from_samples(total - np.array(replayed.cached_tokens), total, output)
    return replace(plain, block_hit_fraction=replayed.hit_fraction)
