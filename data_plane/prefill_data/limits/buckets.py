"""What a request is charged on: every limit of its tenant and of its key, as buckets of units."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from prefill_fleet.names import limit_key
from prefill_fleet.snapshot import LimitNumbers

SECOND_US = 1_000_000
TENANT_ITSELF = "-"  # a key's id never looks like this
MAX_RATE_CAPACITY = 1 << 33  # times a million it is still exact in the script's doubles
MAX_QUOTA = 1 << 52
DAY = dt.timedelta(days=1)


class Limit(StrEnum):
    """The kinds, in the order in which a refusal names them."""

    CONCURRENCY = "concurrency"
    REQUESTS = "requests"
    TOKENS = "tokens"
    DAY_TOKENS = "day_tokens"
    MONTH_TOKENS = "month_tokens"


class BucketId(NamedTuple):
    """Whose bucket: the tenant is always part of it. `period` names a quota's day or month."""

    tenant: str
    subject: str
    limit: Limit
    period: str = ""

    @property
    def name(self) -> str:
        """The key in Redis."""
        limit = f"{self.limit}:{self.period}" if self.period else str(self.limit)
        return limit_key(self.tenant, self.subject, limit)


@dataclass(frozen=True, slots=True)
class Bucket:
    """`capacity` units at most; `per_second` come back by themselves, or (0) none before
    `ends_at_ms` (Unix; 0: never ends). `lent`: units are given back when a request ends."""

    id: BucketId
    per_second: int
    capacity: int
    lent: bool = False
    ends_at_ms: int = 0

    @property
    def scale(self) -> int:
        """Debt is counted in this part of a unit: whole units suffice where nothing drips."""
        return SECOND_US if self.per_second else 1

    @property
    def is_quota(self) -> bool:
        """Whether it is a quota rather than a rate or a concurrency."""
        return self.ends_at_ms > 0


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request takes from a bucket; beyond `soft` units a quota is told of, not refused."""

    bucket: Bucket
    cost: int
    soft: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose limits: a tenant's, or those of one of its keys."""

    tenant: str
    name: str
    numbers: LimitNumbers


def charges_of(subjects: tuple[Subject, ...], tokens: int, now_ms: int) -> tuple[Charge, ...]:
    """All charges of one prefill of so many tokens; a limit that is not set is none."""
    found = [charge for subject in subjects for charge in _charges(subject, tokens, now_ms)]
    order = list(Limit)
    return tuple(sorted(found, key=lambda charge: order.index(charge.bucket.id.limit)))


def _charges(subject: Subject, tokens: int, now_ms: int) -> Iterator[Charge]:
    numbers = subject.numbers
    if numbers.concurrency is not None:
        yield Charge(Bucket(_id(subject, Limit.CONCURRENCY), 0, numbers.concurrency, lent=True), 1)
    if numbers.requests_per_second is not None:
        rate, burst = numbers.requests_per_second, numbers.requests_burst
        yield Charge(_rate(_id(subject, Limit.REQUESTS), rate, burst), 1)
    if numbers.tokens_per_second is not None:
        rate, burst = numbers.tokens_per_second, numbers.tokens_burst
        yield Charge(_rate(_id(subject, Limit.TOKENS), rate, burst), tokens)
    yield from _quotas(subject, tokens, now_ms)


def _quotas(subject: Subject, tokens: int, now_ms: int) -> Iterator[Charge]:
    """A soft number alone is told of, too: its bucket has no end to its capacity."""
    numbers = subject.numbers
    quotas = (
        (Limit.DAY_TOKENS, _day, numbers.day_tokens_soft, numbers.day_tokens_hard),
        (Limit.MONTH_TOKENS, _month, numbers.month_tokens_soft, numbers.month_tokens_hard),
    )
    for limit, period_of, soft, hard in quotas:
        if hard is not None or soft is not None:
            period, ends = period_of(now_ms)
            capacity = hard if hard is not None else MAX_QUOTA
            bucket = Bucket(_id(subject, limit, period), 0, capacity, ends_at_ms=ends)
            yield Charge(bucket, tokens, soft)


def _id(subject: Subject, limit: Limit, period: str = "") -> BucketId:
    return BucketId(subject.tenant, subject.name, limit, period)


def _rate(name: BucketId, per_second: int, burst: int | None) -> Bucket:
    """Without a burst of its own a rate allows one second's worth at once."""
    capacity = burst if burst is not None else max(per_second, 1)
    return Bucket(name, per_second, min(capacity, MAX_RATE_CAPACITY))


def _day(now_ms: int) -> tuple[str, int]:
    """The UTC day: its name, and when it ends."""
    start = _utc(now_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    return start.strftime("%Y-%m-%d"), int((start + DAY).timestamp() * 1000)


def _month(now_ms: int) -> tuple[str, int]:
    """The UTC month: its name, and when it ends."""
    start = _utc(now_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (start + 32 * DAY).replace(day=1)
    return start.strftime("%Y-%m"), int(following.timestamp() * 1000)


def _utc(now_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
