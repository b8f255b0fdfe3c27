"""What a prefill costs: integers from the price row to the sum, rounded up once. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTerms:
    """Micros per million: tokens that no cache held, tokens that one did, egress bytes, decode."""

    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int
    relay_decode_micros: int
    valid_from: dt.datetime
    valid_until: dt.datetime | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is counted of a request."""

    token_count: int
    cached_tokens: int = 0
    egress_bytes: int = 0
    relay_decode_tokens: int = 0


def in_force(terms: Iterable[PriceTerms], at: dt.datetime) -> PriceTerms | None:
    """The terms that hold at a time: begun, not ended, and the latest begun of those."""
    begun = [
        t for t in terms if t.valid_from <= at and (t.valid_until is None or at < t.valid_until)
    ]
    return max(begun, key=lambda t: t.valid_from, default=None)


def cost_micros(terms: PriceTerms, measure: Measure) -> int:
    """The whole price; the sum is rounded up once, so parts never add up to more."""
    missed = measure.token_count - measure.cached_tokens
    total = (
        missed * terms.input_miss_micros
        + measure.cached_tokens * terms.input_hit_micros
        + measure.egress_bytes * terms.egress_micros
        + measure.relay_decode_tokens * terms.relay_decode_micros
    )
    return -(-total // MILLION)
