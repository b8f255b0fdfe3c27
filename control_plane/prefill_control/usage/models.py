"""Receipts, hourly sums and request records; nothing here holds a prompt or a state."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Json, OfTenant


class Receipt(Base, OfTenant):
    """A worker's signed receipt; its id is the dedupe key. `amount_micros`: as told at Claim."""

    __tablename__ = "receipts"
    __table_args__ = (
        Index("ix_receipts_page", "tenant_id", "finished_at", "receipt_id"),
        Index("ix_receipts_finished_at_receipt_id", "finished_at", "receipt_id"),
        CheckConstraint("amount_micros >= 0", name="amount_micros"),
        CheckConstraint("cached_tokens <= token_count", name="cached_tokens"),
    )

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))  # the page's index begins so
    receipt_id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str]
    attempt: Mapped[int]
    fencing_epoch: Mapped[int]
    key_id: Mapped[str]
    model: Mapped[str]
    model_fingerprint: Mapped[str]
    datacenter: Mapped[str]
    worker_id: Mapped[str]
    token_count: Mapped[int]
    cached_tokens: Mapped[int]
    state_bytes_raw: Mapped[int]
    state_bytes_sent: Mapped[int]
    amount_micros: Mapped[int]
    started_at: Mapped[dt.datetime]
    finished_at: Mapped[dt.datetime]
    signed: Mapped[bytes]
    ingested_at: Mapped[dt.datetime]


class UsageHour(Base, OfTenant):
    """Sums of one UTC hour, by the hour in which the prefill finished."""

    __tablename__ = "usage_hours"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    hour: Mapped[dt.datetime] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    datacenter: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(server_default="0")
    tokens: Mapped[int] = mapped_column(server_default="0")
    cached_tokens: Mapped[int] = mapped_column(server_default="0")
    state_bytes_sent: Mapped[int] = mapped_column(server_default="0")
    amount_micros: Mapped[int] = mapped_column(server_default="0")


class RequestRecord(Base, OfTenant):
    """What became of one attempt: where it went and why, and when each step was."""

    __tablename__ = "request_records"
    __table_args__ = (
        Index("ix_request_records_tenant_id_at_request_id", "tenant_id", "at", "request_id"),
    )

    request_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime]
    key_id: Mapped[str]
    model: Mapped[str]
    token_count: Mapped[int]
    outcome: Mapped[str]
    datacenter: Mapped[str]
    route_reason: Mapped[str] = mapped_column(server_default="")
    timeline: Mapped[Json] = mapped_column(server_default="{}")
