"""The table of remembered answers."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, OfTenant


class RememberedAnswer(Base, OfTenant):
    """The answer to one Idempotency-Key, sealed under that key: the row alone opens nothing."""

    __tablename__ = "remembered_answers"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key_digest: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[str]
    status: Mapped[int]
    sealed: Mapped[bytes]
    created_at: Mapped[dt.datetime]
