"""What is said about usage over HTTP."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import Annotated, Any

import msgspec

from prefill_control.errors import invalid
from prefill_control.usage.models import Receipt, RequestRecord
from prefill_control.usage.receipts import MAX_AMOUNT_MICROS, Delivered, Fate, Judged
from prefill_control.usage.sums import Sum
from prefill_control.web.schemas import CURRENCY, Currency, Input, Text, priced

MAX_LINES = 64
Encoded = Annotated[str, msgspec.Meta(min_length=1, max_length=24_576)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_MICROS)]
Timeline = Annotated[dict[str, int], msgspec.Meta(max_length=32)]


class ReceiptLine(Input):
    """One line of a gateway's spool; receipt and certificate in base64."""

    receipt: Encoded
    certificate: Encoded
    amount_micros: Micros
    route_reason: Text = ""
    timeline: Timeline = msgspec.field(default_factory=dict)

    def delivered(self) -> Delivered:
        """For the service."""
        return Delivered(
            receipt=_decoded("receipt", self.receipt),
            certificate=_decoded("certificate", self.certificate),
            amount_micros=self.amount_micros,
            route_reason=self.route_reason,
            timeline=self.timeline,
        )


class ReceiptBatch(Input):
    """Lines in the order of the spool."""

    lines: Annotated[list[ReceiptLine], msgspec.Meta(min_length=1, max_length=MAX_LINES)]


class JudgedView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one line."""

    receipt_id: str
    fate: Fate
    reason: str

    @classmethod
    def of(cls, judged: Judged) -> JudgedView:
        """From the service's answer."""
        return cls(receipt_id=judged.receipt_id, fate=judged.fate, reason=judged.reason)


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict a line, in the same order."""

    lines: list[JudgedView]


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    """One group and its sums."""

    group: dict[str, str]
    requests: int
    tokens: int
    cached_tokens: int
    state_bytes_sent: int
    amount_micros: int
    currency: Currency

    @classmethod
    def of(cls, row: Sum) -> UsageView:
        """From the repository's answer."""
        return cls(group=row.group, currency=CURRENCY, **row.amounts)


class ReceiptView(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt."""

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
    currency: Currency
    started_at: dt.datetime
    finished_at: dt.datetime
    ingested_at: dt.datetime

    @classmethod
    def of(cls, row: Receipt) -> ReceiptView:
        """From its row."""
        return priced(cls, row)


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request. Its prompt is nowhere."""

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
    timeline: dict[str, Any]

    @classmethod
    def of(cls, row: RequestRecord) -> RequestView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise invalid(name, "not base64") from None
