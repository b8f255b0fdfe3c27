"""Limits: rates, concurrency and quotas, of the account or of one key."""

from __future__ import annotations

import datetime as dt
from typing import Final

from prefill_cloud.manage.calls import (
    Call,
    Rows,
    View,
    changing,
    listing,
    part_of,
    reading,
    removing,
)
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb

TENANT: Final = "tenant"  # the subject that is the account itself


class LimitValues(View, frozen=True, kw_only=True):
    """Every limit of a subject; None: not limited. Days and months are UTC."""

    requests_per_second: int | None = None
    requests_burst: int | None = None
    tokens_per_second: int | None = None
    tokens_burst: int | None = None
    concurrency: int | None = None
    day_tokens_soft: int | None = None
    day_tokens_hard: int | None = None
    month_tokens_soft: int | None = None
    month_tokens_hard: int | None = None


class Limits(LimitValues, frozen=True, kw_only=True):
    """Limits as they are; without a key they are the account's."""

    id: str
    tenant_id: str
    key_id: str | None
    created_at: dt.datetime
    version: int

    def values(self) -> LimitValues:
        """What `put` takes."""
        return part_of(LimitValues, self)


class LimitsNoun(Noun[M]):
    """`client.limits`; a subject is a key's id, or TENANT for the account."""

    @list_verb("listLimits")
    def list(self) -> Rows[Limits]:
        """All limits, newest first."""
        return listing(Limits, "limits")

    @verb("readLimits")
    def read(self, subject: str = TENANT) -> Call[Limits]:
        """Read a subject's limits; NotFoundError when it has none."""
        return reading(Limits, "limits", subject)

    @verb("putLimits")
    def put(self, subject: str, values: LimitValues, *, version: int) -> Call[Limits]:
        """Replace a subject's limits; NO_VERSION when it has none yet."""
        return changing(Limits, values, "limits", subject, version=version)

    @verb("deleteLimits")
    def delete(self, subject: str) -> Call[None]:
        """Limit the subject no more."""
        return removing("limits", subject)
