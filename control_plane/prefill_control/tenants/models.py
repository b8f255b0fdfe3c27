"""The table of tenants."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, Versioned

PLATFORM_TENANT = "ten_platform"


class TenantState(StrEnum):
    """ACTIVE serves; SUSPENDED refuses new work and keeps everything; CLOSED is for good."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class Tenant(Base, Created, Versioned):
    """A paying account; the one whose id is `PLATFORM_TENANT` is ours, for operators."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'suspended', 'closed')", name="state"),
        Index("ix_tenants_created_at_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(server_default="active")
    reason: Mapped[str] = mapped_column(server_default="")
    closed_at: Mapped[dt.datetime | None]
