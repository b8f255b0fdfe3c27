"""The tables of audit rows and of remembered answers (Idempotency-Key)."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Json, OfTenant


class AuditRow(Base, OfTenant):
    """Who did what to which object; secrets never get here. The app role may only add and read."""

    __tablename__ = "audit_rows"
    __table_args__ = (Index("ix_audit_rows_tenant_id_at_id", "tenant_id", "at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime]
    actor_kind: Mapped[str]
    actor_id: Mapped[str]
    action: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[str]
    before: Mapped[Json | None]
    after: Mapped[Json | None]
    request_id: Mapped[str]
    address: Mapped[str]
