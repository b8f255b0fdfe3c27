"""The one evaluation of limits: allowed, refused with its numbers, or not yet known. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.limits.buckets import TENANT_ITSELF, Bucket, Charge

NEVER_US = -1  # waiting does not help: the request is larger than the limit


@dataclass(frozen=True, slots=True)
class Standing:
    """What a gateway knows of a bucket: `free` units at hand, `used` in all as told last, and
    until when (Unix microseconds) asking for more is known to be in vain."""

    free: int
    used: int = 0
    retry_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Allowed:
    """Every charge can be met; `soft` are quotas that are now beyond their soft number."""

    soft: tuple[Bucket, ...] = ()


@dataclass(frozen=True, slots=True)
class Short:
    """These charges need more units than are at hand."""

    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The first limit that refuses, and after how long to try again (`NEVER_US`: never)."""

    charge: Charge
    retry_after_us: int

    def error(self) -> DataPlaneError:
        """RATE_LIMITED or QUOTA_EXCEEDED, with the numbers."""
        bucket = self.charge.bucket
        whose = "the account" if bucket.id.subject == TENANT_ITSELF else f"key {bucket.id.subject}"
        code = StatusCode.QUOTA_EXCEEDED if bucket.is_quota else StatusCode.RATE_LIMITED
        words = f"{whose}: {bucket.id.limit.replace('_', ' ')}, limit {bucket.capacity}"
        if bucket.per_second:
            words += f" at once and {bucket.per_second} a second"
        if self.charge.cost > 1:
            words += f", this request takes {self.charge.cost}"
        if self.retry_after_us == NEVER_US:
            remedy = "send a smaller request, or raise the limit"
            return DataPlaneError(code, words, remedy)
        retry_after_ms = max(1, -(-self.retry_after_us // 1000))
        return DataPlaneError(code, words, retry_after_ms=retry_after_ms)


def evaluate(
    charges: Sequence[Charge], standings: Sequence[Standing], now_us: int
) -> Allowed | Short | Refused:
    """All or nothing: no unit is taken unless every limit allows. A refusal that is known goes
    before asking, and the first in the order of charges is the one that is named."""
    short: list[Charge] = []
    for charge, standing in zip(charges, standings, strict=True):
        if charge.cost > charge.bucket.capacity:
            return Refused(charge, NEVER_US)
        if standing.free < charge.cost:
            if standing.retry_at_us > now_us:
                return Refused(charge, _retry_after_us(charge.bucket, standing, now_us))
            short.append(charge)
    if short:
        return Short(tuple(short))
    pairs = zip(charges, standings, strict=True)
    soft = (c.bucket for c, s in pairs if c.soft is not None and s.used + c.cost > c.soft)
    return Allowed(tuple(soft))


def _retry_after_us(bucket: Bucket, standing: Standing, now_us: int) -> int:
    """A quota refills when its period ends, however soon this gateway asks for it again."""
    if bucket.is_quota:
        return max(1, 1000 * bucket.ends_at_ms - now_us)
    return standing.retry_at_us - now_us
