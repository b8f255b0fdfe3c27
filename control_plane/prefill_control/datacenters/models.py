"""The catalogue of datacenters, and each tenant's preference and residency rule."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, Json, OfTenant, Versioned


class Datacenter(Base, Created, Versioned):
    """One site. ACTIVE takes requests, CORDONED takes none new, DRAINING ends what runs."""

    __tablename__ = "datacenters"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'cordoned', 'draining')", name="state"),
        CheckConstraint("rtt_ms >= 0", name="rtt_ms"),
        CheckConstraint("egress_mbps > 0", name="egress_mbps"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    jurisdiction: Mapped[str]
    place: Mapped[str] = mapped_column(server_default="")
    endpoint: Mapped[str]
    models: Mapped[list[str]] = mapped_column(server_default="{}")
    accelerators: Mapped[Json] = mapped_column(server_default="{}")
    rtt_ms: Mapped[int] = mapped_column(server_default="0")
    egress_mbps: Mapped[int] = mapped_column(server_default="10000")
    state: Mapped[str] = mapped_column(server_default="active")


class DatacenterPreference(Base, Created, OfTenant, Versioned):
    """An ordered wish: what can be met is met, in this order; `fallback` allows the others."""

    __tablename__ = "datacenter_preferences"
    __table_args__ = (UniqueConstraint("tenant_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    wishes: Mapped[list[str]] = mapped_column(server_default="{}")
    allow: Mapped[list[str]] = mapped_column(server_default="{}")
    deny: Mapped[list[str]] = mapped_column(server_default="{}")
    max_price_micros: Mapped[int | None]
    max_added_latency_ms: Mapped[int | None]
    fallback: Mapped[bool] = mapped_column(server_default="true")


class Residency(Base, Created, OfTenant, Versioned):
    """A hard rule: jurisdictions that no request of the tenant may leave; empty: no rule."""

    __tablename__ = "residencies"
    __table_args__ = (UniqueConstraint("tenant_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    jurisdictions: Mapped[list[str]] = mapped_column(server_default="{}")
