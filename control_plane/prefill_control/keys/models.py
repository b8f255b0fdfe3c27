"""The table of API keys."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, OfTenant, Versioned


class ApiKey(Base, Created, OfTenant, Versioned):
    """One key. `key_hash` is the HMAC-SHA256 (hex) of the secret under the process's pepper.

    `last_used_at` is told by gateways in batches, so its update does not count the version up.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'revoked')", name="state"),
        Index("ix_api_keys_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
        Index(
            "uq_api_keys_tenant_id_name_active",
            "tenant_id",
            "name",
            unique=True,
            postgresql_where=text("state = 'active' AND replaced_by IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]
    last4: Mapped[str]
    key_hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    addresses: Mapped[list[str]] = mapped_column(server_default="{}")
    state: Mapped[str] = mapped_column(server_default="active")
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
    last_used_at: Mapped[dt.datetime | None]
    replaced_by: Mapped[str | None]
    created_by: Mapped[str]
