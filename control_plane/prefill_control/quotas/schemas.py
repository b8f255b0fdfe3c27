"""What is said about limits over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from prefill_control.quotas.models import Limits
from prefill_control.web.schemas import Amount, Input

PerSecond = Annotated[int, msgspec.Meta(ge=1, le=10**9, examples=[50])]


class LimitsInput(Input):
    """All limits of a subject: what is left out is not limited."""

    requests_per_second: PerSecond | None = None
    requests_burst: PerSecond | None = None
    tokens_per_second: PerSecond | None = None
    tokens_burst: PerSecond | None = None
    concurrency: Amount | None = None
    day_tokens_soft: Amount | None = None
    day_tokens_hard: Amount | None = None
    month_tokens_soft: Amount | None = None
    month_tokens_hard: Amount | None = None


class LimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a tenant (no key) or of one key."""

    id: str
    tenant_id: str
    key_id: str | None
    requests_per_second: int | None
    requests_burst: int | None
    tokens_per_second: int | None
    tokens_burst: int | None
    concurrency: int | None
    day_tokens_soft: int | None
    day_tokens_hard: int | None
    month_tokens_soft: int | None
    month_tokens_hard: int | None
    created_at: dt.datetime
    version: int

    @classmethod
    def of(cls, row: Limits) -> LimitsView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})
