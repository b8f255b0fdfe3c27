"""One evaluation of every limit: allow, or which limit, its numbers, and when to come again. Pure.

A request is held against its tenant's limits and its key's. The first limit that refuses is named;
nothing is counted unless all allow. Periods are UTC days and months.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefill_control.quotas.gcra import SECOND_US, Rate, take

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Quota:
    """Tokens a period: over `soft` is told, over `hard` is refused; None: no such bound."""

    soft: int | None
    hard: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSet:
    """All limits of one subject: a tenant, or one of its keys."""

    subject: str
    requests: Rate | None = None
    tokens: Rate | None = None
    concurrency: int | None = None
    day: Quota = Quota(None, None)
    month: Quota = Quota(None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What one subject has used: two GCRA states, requests in flight, tokens of the periods."""

    requests_us: int = 0
    tokens_us: int = 0
    in_flight: int = 0
    day_tokens: int = 0
    month_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The limit that refused: `used` of `limit`, and when trying again can help."""

    subject: str
    limit_name: str
    limit: int
    used: int
    retry_after_us: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed with the counters to store, or refused; `soft` names soft quotas that are passed."""

    refusal: Refusal | None
    counters: tuple[Counters, ...]
    soft: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.refusal is None


def evaluate(
    limits: Sequence[LimitSet], counters: Sequence[Counters], tokens: int, now: dt.datetime
) -> Verdict:
    """Hold one request of so many tokens against every limit; `counters` pairs with `limits`."""
    kept = tuple(counters)
    charged: list[Counters] = []
    soft: list[str] = []
    for limit, counter in zip(limits, counters, strict=True):
        after, refusal = _hold(limit, counter, tokens, now)
        if refusal is not None:
            return Verdict(refusal, kept)
        charged.append(after)
        soft += _soft(limit, after)
    return Verdict(None, tuple(charged), tuple(soft))


def until_next_day(now: dt.datetime) -> dt.timedelta:
    """Time to the next UTC midnight."""
    start = now.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start + dt.timedelta(days=1) - now


def until_next_month(now: dt.datetime) -> dt.timedelta:
    """Time to the first UTC midnight of the next month."""
    start = now.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (start + dt.timedelta(days=32)).replace(day=1)
    return following - now


def _hold(
    limit: LimitSet, counter: Counters, tokens: int, now: dt.datetime
) -> tuple[Counters, Refusal | None]:
    """One subject's counters after the request, or its refusal."""
    now_us = (now - EPOCH) // dt.timedelta(microseconds=1)
    if limit.concurrency is not None and counter.in_flight >= limit.concurrency:
        most, used = limit.concurrency, counter.in_flight
        return counter, Refusal(limit.subject, "concurrency", most, used, SECOND_US)
    for name, rate, arrival, cost in (
        ("requests_us", limit.requests, counter.requests_us, 1),
        ("tokens_us", limit.tokens, counter.tokens_us, tokens),
    ):
        if rate is None:
            continue
        grant = take(rate, arrival, now_us, cost)
        if not grant.allowed:
            called = f"{name.removesuffix('_us')}_per_second"
            used = rate.burst - grant.remaining
            wait = grant.retry_after_us
            return counter, Refusal(limit.subject, called, rate.per_second, used, wait)
        counter = replace(counter, **{name: grant.arrival_us})
    return _hold_quotas(limit, counter, tokens, now)


def _hold_quotas(
    limit: LimitSet, counter: Counters, tokens: int, now: dt.datetime
) -> tuple[Counters, Refusal | None]:
    for name, quota, used, wait in (
        ("day_tokens", limit.day, counter.day_tokens, until_next_day(now)),
        ("month_tokens", limit.month, counter.month_tokens, until_next_month(now)),
    ):
        if quota.hard is not None and used + tokens > quota.hard:
            wait_us = int(wait.total_seconds() * SECOND_US)
            return counter, Refusal(limit.subject, name, quota.hard, used, wait_us)
    return replace(
        counter,
        in_flight=counter.in_flight + 1,
        day_tokens=counter.day_tokens + tokens,
        month_tokens=counter.month_tokens + tokens,
    ), None


def _soft(limit: LimitSet, counter: Counters) -> list[str]:
    passed = (
        ("day_tokens", limit.day.soft, counter.day_tokens),
        ("month_tokens", limit.month.soft, counter.month_tokens),
    )
    return [
        f"{limit.subject}.{name}"
        for name, bound, used in passed
        if bound is not None and used > bound
    ]
