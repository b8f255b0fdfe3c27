"""KDA on a GPU: Triton kernels, written for this contract, unmeasured on a card so far.

A sequence is cut into chunks of up to 64 tokens, a chunk into parts of 16. `G` is the running sum
of the log decays `g` inside a chunk (arXiv 2510.26692, section 3, in natural logarithms):

    A[i, j] = sum_d x_i k_j e^(G_i - G_j)          x = k for i > j, x = q for i >= j
    (I + diag(beta) A_kk) [W | U] = diag(beta) [e^G k | v]
    V' = U - W S;   O = (e^G q) S + A_qk V';   S' = diag(e^(G_C)) S + (e^(G_C - G) k)^T V'

No exponent is ever above zero. Inside a part `G_i - G_j` is added up from its own gates, so it
keeps its digits where `G` itself is -100; between parts both factors end at the border between
them and are <= 1. So nothing overflows, nothing needs a reference point or a second form for steep
gates, and what underflows is nothing to float32.

Scratch is float32, a chunk and head at a time, always 64 rows; rows beyond a chunk's end hold
zeros. Tables: `chunks` `[NC, 3]` int64 (first token, tokens, number of the bound at its end or -1),
`walks` `[N, 3]` int64 (sequence, its first chunk, the one after its last).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

CHUNK = tl.constexpr(64)
PART = tl.constexpr(16)
PARTS = tl.constexpr(4)


class Rows(NamedTuple):
    """A tensor `[T, H, D]` (or `[T, H]`): data, elements from token to token and head to head."""

    data: Any
    token: int
    head: int


class Tokens(NamedTuple):
    """The packed inputs, D adjacent in each."""

    q: Rows
    k: Rows
    v: Rows
    g: Rows
    beta: Rows


class Scratch(NamedTuple):
    """Per chunk and head, KP and VP the padded K and V.

    system `[64, 64]`: below the diagonal parts beta A_kk, in them the inverse of I + beta A_kk;
    a_qk `[64, 64]`; w, q_in (e^G q), k_out (e^(G_C - G) k) `[64, KP]`; carry (e^(G_C)) `[KP]`;
    u `[64, VP]`. Above the diagonal parts nothing is written and nothing is read.
    """

    system: Any
    a_qk: Any
    w: Any
    q_in: Any
    k_out: Any
    carry: Any
    u: Any


class States(NamedTuple):
    """States `[N, H, K, V]`: data, elements from sequence to sequence, head to head, row to row."""

    data: Any
    sequence: int
    head: int
    key: int


class Tables(NamedTuple):
    """`chunks` and `walks` of the module's docstring."""

    chunks: Any
    walks: Any


class Results(NamedTuple):
    """What a walk writes: outputs `[T, H, V]`, states in place, states at the bounds."""

    out: Rows
    states: States
    bounds: States


class Sizes(NamedTuple):
    """Head sizes as they are, without padding."""

    K: int
    V: int


@triton.jit
def load_part(rows, start, first, length, columns, width):
    """`[PART, columns]` float32 of a head's chunk rows from `first`; zeros beyond its end."""
    at = tl.arange(0, PART) + first
    head = tl.program_id(1).to(tl.int64)
    places = (start + at)[:, None] * rows.token + head * rows.head + columns[None, :]
    inside = (at < length)[:, None] & (columns < width)[None, :]
    return tl.load(rows.data + places, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_beta(rows, start, first, length):
    """`[PART]` float32, zeros beyond the chunk's end: such rows write nothing into the state."""
    at = tl.arange(0, PART) + first
    head = tl.program_id(1).to(tl.int64)
    places = (start + at) * rows.token + head * rows.head
    return tl.load(rows.data + places, mask=at < length, other=0.0).to(tl.float32)


@triton.jit
def of_chunk(data, chunk, size):
    """Where this head's `size` elements of a chunk's scratch begin."""
    number = tl.num_programs(1).to(tl.int64) * chunk + tl.program_id(1)
    return data + number * size


@triton.jit
def square(rows_from, columns_from):
    """Offsets `[PART, PART]` of a part inside `[64, 64]`."""
    at = tl.arange(0, PART)
    return (at + rows_from)[:, None] * CHUNK + (at + columns_from)[None, :]


@triton.jit
def scores_inside(q, k, g):
    """A_kk and A_qk `[PART, PART]` of a part with itself, by exact differences; all exps <= 1."""
    at = tl.arange(0, PART)
    kk = tl.zeros([PART, PART], tl.float32)
    qk = tl.zeros([PART, PART], tl.float32)
    exponent = tl.zeros_like(g)
    for back in range(PART):
        j = PART - 1 - back
        # what row i > j has decayed by since j: one gate more than since j + 1
        gate = tl.sum(tl.where((at == j + 1)[:, None], g, 0.0), 0)
        exponent = tl.where((at > j)[:, None], exponent + gate[None, :], 0.0)
        decayed = tl.exp(exponent) * tl.sum(tl.where((at == j)[:, None], k, 0.0), 0)[None, :]
        chosen = (at == j)[None, :]
        kk = tl.where(chosen, tl.sum(k * decayed, 1)[:, None], kk)
        qk = tl.where(chosen, tl.sum(q * decayed, 1)[:, None], qk)
    kk = tl.where(at[:, None] > at[None, :], kk, 0.0)
    qk = tl.where(at[:, None] >= at[None, :], qk, 0.0)
    return kk, qk


@triton.jit
def unit_inverse(below):
    """`(I + below)^-1` `[PART, PART]` of a strictly lower triangle, row by row."""
    at = tl.arange(0, PART)
    inverse = (at[:, None] == at[None, :]).to(tl.float32)
    for i in range(1, PART):
        chosen = (at == i)[:, None]
        row = tl.sum(tl.where(chosen, below, 0.0), 0)
        inverse = tl.where(chosen, inverse - tl.sum(row[:, None] * inverse, 0)[None, :], inverse)
    return inverse


@triton.jit
def score_parts(
    tokens,
    scratch,
    chunks,
    K,
    KP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Rows of one part of `system` and `a_qk`. Grid: (chunks x 4, heads)."""
    chunk = tl.program_id(0) // PARTS
    part = tl.program_id(0) % PARTS
    start = tl.load(chunks + 3 * chunk)
    length = tl.load(chunks + 3 * chunk + 1)
    columns = tl.arange(0, KP)
    first = part * PART
    q = load_part(tokens.q, start, first, length, columns, K)
    k = load_part(tokens.k, start, first, length, columns, K)
    g = load_part(tokens.g, start, first, length, columns, K)
    beta = load_beta(tokens.beta, start, first, length)
    system = of_chunk(scratch.system, chunk, CHUNK * CHUNK)
    a_qk = of_chunk(scratch.a_qk, chunk, CHUNK * CHUNK)
    kk, qk = scores_inside(q, k, g)
    tl.store(system + square(first, first), unit_inverse(kk * beta[:, None]))
    tl.store(a_qk + square(first, first), qk)
    since_border = tl.exp(tl.cumsum(g, 0))
    k *= since_border * beta[:, None]
    q *= since_border
    between = tl.zeros([KP], tl.float32)
    for back in range(1, part + 1):
        early = (part - back) * PART
        g_early = load_part(tokens.g, start, early, length, columns, K)
        k_early = load_part(tokens.k, start, early, length, columns, K)
        # gates after each row up to the part's end; its own is taken off again, exactly at the end
        until_border = tl.cumsum(g_early, 0, reverse=True) - g_early
        k_early = tl.trans(k_early * tl.exp(until_border + between[None, :]))
        tl.store(system + square(first, early), tl.dot(k, k_early, input_precision=PRECISION))
        tl.store(a_qk + square(first, early), tl.dot(q, k_early, input_precision=PRECISION))
        between += tl.sum(g_early, 0)


@triton.jit
def solve(system, right_0, right_1, right_2, right_3, PRECISION: tl.constexpr):
    """`[W | U]` of the chunk's system, part by part, from right sides `[PART, D]`."""
    done_0 = tl.dot(tl.load(system + square(0, 0)), right_0, input_precision=PRECISION)
    right_1 -= tl.dot(tl.load(system + square(PART, 0)), done_0, input_precision=PRECISION)
    right_2 -= tl.dot(tl.load(system + square(2 * PART, 0)), done_0, input_precision=PRECISION)
    right_3 -= tl.dot(tl.load(system + square(3 * PART, 0)), done_0, input_precision=PRECISION)
    done_1 = tl.dot(tl.load(system + square(PART, PART)), right_1, input_precision=PRECISION)
    right_2 -= tl.dot(tl.load(system + square(2 * PART, PART)), done_1, input_precision=PRECISION)
    right_3 -= tl.dot(tl.load(system + square(3 * PART, PART)), done_1, input_precision=PRECISION)
    done_2 = tl.dot(
        tl.load(system + square(2 * PART, 2 * PART)), right_2, input_precision=PRECISION
    )
    last = tl.load(system + square(3 * PART, 2 * PART))
    right_3 -= tl.dot(last, done_2, input_precision=PRECISION)
    done_3 = tl.dot(
        tl.load(system + square(3 * PART, 3 * PART)), right_3, input_precision=PRECISION
    )
    return done_0, done_1, done_2, done_3


@triton.jit
def store_part(data, part: tl.constexpr, columns, padded: tl.constexpr, tile):
    """Write a tile `[PART, columns]` into this chunk's scratch rows of `padded` elements."""
    at = tl.arange(0, PART) + part * PART
    begin = of_chunk(data, tl.program_id(0), CHUNK * padded)
    tl.store(begin + at[:, None] * padded + columns[None, :], tile)


@triton.jit
def decayed_keys(tokens, scratch, chunks, part: tl.constexpr, columns, K, KP: tl.constexpr):
    """A part's `beta e^G k` `[PART, columns]`; writes its q_in and k_out on the way."""
    chunk = tl.program_id(0)
    start = tl.load(chunks + 3 * chunk)
    length = tl.load(chunks + 3 * chunk + 1)
    before = tl.zeros_like(columns).to(tl.float32)
    after = before
    for other in tl.static_range(PARTS):
        if other != part:
            others = tl.sum(load_part(tokens.g, start, other * PART, length, columns, K), 0)
            if other < part:
                before += others
            else:
                after += others
    q = load_part(tokens.q, start, part * PART, length, columns, K)
    k = load_part(tokens.k, start, part * PART, length, columns, K)
    g = load_part(tokens.g, start, part * PART, length, columns, K)
    since_start = tl.exp(before[None, :] + tl.cumsum(g, 0))
    until_end = tl.exp(after[None, :] + (tl.cumsum(g, 0, reverse=True) - g))
    store_part(scratch.q_in, part, columns, KP, q * since_start)
    store_part(scratch.k_out, part, columns, KP, k * until_end)
    beta = load_beta(tokens.beta, start, part * PART, length)
    if part == PARTS - 1:
        total = tl.exp(before + tl.sum(g, 0))
        tl.store(of_chunk(scratch.carry, chunk, KP) + columns, total)
    return k * since_start * beta[:, None]


@triton.jit
def solve_keys(
    tokens,
    scratch,
    chunks,
    K,
    KP: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """w, q_in, k_out and carry of WIDTH columns. Grid: (chunks, heads, KP / WIDTH)."""
    columns = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    k_0 = decayed_keys(tokens, scratch, chunks, 0, columns, K, KP)
    k_1 = decayed_keys(tokens, scratch, chunks, 1, columns, K, KP)
    k_2 = decayed_keys(tokens, scratch, chunks, 2, columns, K, KP)
    k_3 = decayed_keys(tokens, scratch, chunks, 3, columns, K, KP)
    system = of_chunk(scratch.system, tl.program_id(0), CHUNK * CHUNK)
    w_0, w_1, w_2, w_3 = solve(system, k_0, k_1, k_2, k_3, PRECISION)
    store_part(scratch.w, 0, columns, KP, w_0)
    store_part(scratch.w, 1, columns, KP, w_1)
    store_part(scratch.w, 2, columns, KP, w_2)
    store_part(scratch.w, 3, columns, KP, w_3)


@triton.jit
def written_values(tokens, chunks, part: tl.constexpr, columns, V):
    """A part's `beta v` `[PART, columns]`."""
    start = tl.load(chunks + 3 * tl.program_id(0))
    length = tl.load(chunks + 3 * tl.program_id(0) + 1)
    v = load_part(tokens.v, start, part * PART, length, columns, V)
    return v * load_beta(tokens.beta, start, part * PART, length)[:, None]


@triton.jit
def solve_values(
    tokens,
    scratch,
    chunks,
    V,
    VP: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """u of WIDTH columns. Grid: (chunks, heads, VP / WIDTH)."""
    columns = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    v_0 = written_values(tokens, chunks, 0, columns, V)
    v_1 = written_values(tokens, chunks, 1, columns, V)
    v_2 = written_values(tokens, chunks, 2, columns, V)
    v_3 = written_values(tokens, chunks, 3, columns, V)
    system = of_chunk(scratch.system, tl.program_id(0), CHUNK * CHUNK)
    u_0, u_1, u_2, u_3 = solve(system, v_0, v_1, v_2, v_3, PRECISION)
    store_part(scratch.u, 0, columns, VP, u_0)
    store_part(scratch.u, 1, columns, VP, u_1)
    store_part(scratch.u, 2, columns, VP, u_2)
    store_part(scratch.u, 3, columns, VP, u_3)


@triton.jit
def state_places(states, number, head, keys, columns):
    """Places `[keys, columns]` of one head's state."""
    begin = states.data + number.to(tl.int64) * states.sequence + head * states.head
    return begin + keys.to(tl.int64)[:, None] * states.key + columns[None, :]


@triton.jit
def read_state(states, number, head, keys, columns, sizes):
    """`[keys, columns]` of one head's state; zeros beyond K and V."""
    inside = (keys < sizes.K)[:, None] & (columns < sizes.V)[None, :]
    return tl.load(state_places(states, number, head, keys, columns), mask=inside, other=0.0)


@triton.jit
def write_state(states, number, head, keys, columns, sizes, tile):
    """Write what lies within K and V."""
    inside = (keys < sizes.K)[:, None] & (columns < sizes.V)[None, :]
    tl.store(state_places(states, number, head, keys, columns), tile, mask=inside)


@triton.jit
def of_keys(data, chunk, keys, KP: tl.constexpr):
    """Columns `keys` `[CHUNK, keys]` of a chunk's w, q_in or k_out."""
    at = tl.arange(0, CHUNK)
    return tl.load(of_chunk(data, chunk, CHUNK * KP) + at[:, None] * KP + keys[None, :])


@triton.jit
def advance(state, scratch, chunk, keys, new, KP: tl.constexpr, PRECISION: tl.constexpr):
    """Rows `keys` of `diag(e^(G_C)) S + k_out^T V'`."""
    carry = tl.load(of_chunk(scratch.carry, chunk, KP) + keys)
    k_out = tl.trans(of_keys(scratch.k_out, chunk, keys, KP))
    return state * carry[:, None] + tl.dot(k_out, new, input_precision=PRECISION)


@triton.jit
def walk(  # noqa: C901 - every branch but one is decided at compile time
    scratch,
    tables,
    results,
    sizes,
    KP: tl.constexpr,
    VP: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Carry WIDTH columns of each state over its chunks. Grid: (VP / WIDTH, heads, walks).

    Reads and writes `results.states`; writes `results.out` and, at the end of a chunk that has a
    bound, `results.bounds`. The state stands in up to four tiles of 64 rows: whole tiles of 128 x
    64 float32 beside it would not stay in registers.
    """
    head = tl.program_id(1).to(tl.int64)
    sequence = tl.load(tables.walks + 3 * tl.program_id(2))
    first = tl.load(tables.walks + 3 * tl.program_id(2) + 1)
    end = tl.load(tables.walks + 3 * tl.program_id(2) + 2)
    at = tl.arange(0, CHUNK)
    TILE: tl.constexpr = min(KP, 64)
    keys = tl.arange(0, TILE)
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    states, bounds = results.states, results.bounds
    s_0 = read_state(states, sequence, head, keys, columns, sizes)
    if KP > TILE:
        s_1 = read_state(states, sequence, head, keys + TILE, columns, sizes)
    if KP > 2 * TILE:
        s_2 = read_state(states, sequence, head, keys + 2 * TILE, columns, sizes)
        s_3 = read_state(states, sequence, head, keys + 3 * TILE, columns, sizes)
    for chunk in range(first, end):
        start = tl.load(tables.chunks + 3 * chunk)
        length = tl.load(tables.chunks + 3 * chunk + 1)
        bound = tl.load(tables.chunks + 3 * chunk + 2)
        u = of_chunk(scratch.u, chunk, CHUNK * VP) + at[:, None] * VP + columns[None, :]
        new, w, q_in = tl.load(u), scratch.w, scratch.q_in
        new -= tl.dot(of_keys(w, chunk, keys, KP), s_0, input_precision=PRECISION)
        out = tl.dot(of_keys(q_in, chunk, keys, KP), s_0, input_precision=PRECISION)
        if KP > TILE:
            new -= tl.dot(of_keys(w, chunk, keys + TILE, KP), s_1, input_precision=PRECISION)
            out += tl.dot(of_keys(q_in, chunk, keys + TILE, KP), s_1, input_precision=PRECISION)
        if KP > 2 * TILE:
            third, fourth = keys + 2 * TILE, keys + 3 * TILE
            new -= tl.dot(of_keys(w, chunk, third, KP), s_2, input_precision=PRECISION)
            out += tl.dot(of_keys(q_in, chunk, third, KP), s_2, input_precision=PRECISION)
            new -= tl.dot(of_keys(w, chunk, fourth, KP), s_3, input_precision=PRECISION)
            out += tl.dot(of_keys(q_in, chunk, fourth, KP), s_3, input_precision=PRECISION)
        lower = at[:, None] >= at[None, :]
        a_qk = of_chunk(scratch.a_qk, chunk, CHUNK * CHUNK) + at[:, None] * CHUNK + at[None, :]
        out += tl.dot(tl.load(a_qk, mask=lower, other=0.0), new, input_precision=PRECISION)
        into = (start + at)[:, None] * results.out.token + head * results.out.head
        written = (at < length)[:, None] & (columns < sizes.V)[None, :]
        kind = results.out.data.dtype.element_ty
        tl.store(results.out.data + into + columns[None, :], out.to(kind), mask=written)
        s_0 = advance(s_0, scratch, chunk, keys, new, KP, PRECISION)
        if KP > TILE:
            s_1 = advance(s_1, scratch, chunk, keys + TILE, new, KP, PRECISION)
        if KP > 2 * TILE:
            s_2 = advance(s_2, scratch, chunk, keys + 2 * TILE, new, KP, PRECISION)
            s_3 = advance(s_3, scratch, chunk, keys + 3 * TILE, new, KP, PRECISION)
        if bound >= 0:
            write_state(bounds, bound, head, keys, columns, sizes, s_0)
            if KP > TILE:
                write_state(bounds, bound, head, keys + TILE, columns, sizes, s_1)
            if KP > 2 * TILE:
                write_state(bounds, bound, head, keys + 2 * TILE, columns, sizes, s_2)
                write_state(bounds, bound, head, keys + 3 * TILE, columns, sizes, s_3)
    write_state(states, sequence, head, keys, columns, sizes, s_0)
    if KP > TILE:
        write_state(states, sequence, head, keys + TILE, columns, sizes, s_1)
    if KP > 2 * TILE:
        write_state(states, sequence, head, keys + 2 * TILE, columns, sizes, s_2)
        write_state(states, sequence, head, keys + 3 * TILE, columns, sizes, s_3)


@triton.jit
def step(
    tokens,
    results,
    sizes,
    KP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One token of every sequence, its state updated in place. Grid: (columns, heads, sequences).

    `S <- diag(e^g) S;  S <- S + k (beta (v - k^T S))^T;  o = S^T q`, as `naive_kda` has it.
    """
    head, number = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    keys = tl.arange(0, KP)
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    has_key, has_column = keys < sizes.K, columns < sizes.V
    q = tl.load(place_of(tokens.q, number, head) + keys, mask=has_key, other=0.0).to(tl.float32)
    k = tl.load(place_of(tokens.k, number, head) + keys, mask=has_key, other=0.0).to(tl.float32)
    g = tl.load(place_of(tokens.g, number, head) + keys, mask=has_key, other=0.0).to(tl.float32)
    v = tl.load(place_of(tokens.v, number, head) + columns, mask=has_column, other=0.0)
    beta = tl.load(place_of(tokens.beta, number, head)).to(tl.float32)
    state = read_state(results.states, number, head, keys, columns, sizes) * tl.exp(g)[:, None]
    written = beta * (v.to(tl.float32) - tl.sum(state * k[:, None], 0))
    state += k[:, None] * written[None, :]
    out = tl.sum(state * q[:, None], 0).to(results.out.data.dtype.element_ty)
    tl.store(place_of(results.out, number, head) + columns, out, mask=has_column)
    write_state(results.states, number, head, keys, columns, sizes, state)


@triton.jit
def place_of(rows, number, head):
    """Where one token's head begins."""
    return rows.data + number * rows.token + head * rows.head
