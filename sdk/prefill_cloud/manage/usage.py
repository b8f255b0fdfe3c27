"""Usage: sums, receipts, and what became of each request. Prompts are nowhere in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from prefill_cloud.manage.calls import Call, Rows, View, listing, reading
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class UsageRow(View, frozen=True, kw_only=True):
    """One group and its sums."""

    group: Mapping[str, str]
    requests: int
    tokens: int
    cached_tokens: int
    state_bytes_sent: int
    amount_micros: int
    currency: str


class Receipt(View, frozen=True, kw_only=True):
    """A delivered prefill, as its worker signed it and as it was charged."""

    receipt_id: str
    tenant_id: str
    request_id: str
    attempt: int
    key_id: str
    model: str
    model_fingerprint: str
    datacenter: str
    worker_id: str
    token_count: int
    cached_tokens: int
    state_bytes_raw: int
    state_bytes_sent: int
    amount_micros: int
    currency: str
    started_at: dt.datetime
    finished_at: dt.datetime
    ingested_at: dt.datetime


class RequestRecord(View, frozen=True, kw_only=True):
    """What became of a request: route, reason and timeline."""

    request_id: str
    tenant_id: str
    attempt: int
    at: dt.datetime
    key_id: str
    model: str
    token_count: int
    outcome: str
    datacenter: str
    route_reason: str
    timeline: Mapping[str, Any]


class UsageFilter(TypedDict, total=False):
    """Only what is of this; times carry their zone, and `until` is excluded."""

    key_id: str
    model: str
    datacenter: str
    since: dt.datetime | None
    until: dt.datetime | None


class Usage(Noun[M]):
    """`client.usage`: of the account; of every account for an operator."""

    @list_verb("listUsage")
    def list(
        self, group_by: Sequence[str] = ("tenant",), **only: Unpack[UsageFilter]
    ) -> Rows[UsageRow]:
        """Sums by any of tenant, key, model, datacenter, hour, day, month (UTC)."""
        return listing(UsageRow, "usage", {"group_by": group_by, **only})

    @list_verb("listReceipts")
    def receipts(self, **only: Unpack[UsageFilter]) -> Rows[Receipt]:
        """Receipts, the latest finished first."""
        return listing(Receipt, "receipts", only)

    @list_verb("listRequests")
    def requests(self, **only: Unpack[UsageFilter]) -> Rows[RequestRecord]:
        """Requests, the latest first."""
        return listing(RequestRecord, "requests", only)

    @verb("readRequest")
    def request(self, request_id: str) -> Call[RequestRecord]:
        """The newest attempt of a request."""
        return reading(RequestRecord, "requests", request_id)
