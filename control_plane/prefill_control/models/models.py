"""The catalogue of models, list prices, and a tenant's overrides and allow-list."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, OfTenant, Versioned

RATES = (
    "input_miss_micros",
    "input_hit_micros",
    "egress_micros",
    "relay_decode_micros",
)


class Model(Base, Created, Versioned):
    """One served model. `restricted`: only tenants on its allow-list see it."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint("state IN ('active', 'retired')", name="state"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    tokenizer_fingerprint: Mapped[str]
    numerics_profile: Mapped[str]
    context_tokens: Mapped[int]
    codecs: Mapped[list[str]] = mapped_column(server_default="{}")
    restricted: Mapped[bool] = mapped_column(server_default="false")
    state: Mapped[str] = mapped_column(server_default="active")


class Price(Base, Created):
    """List prices from `valid_from` on, until the next row of the model begins.

    Integer micros per million tokens; nothing is ever changed, a new price is a new row.
    """

    __tablename__ = "prices"
    __table_args__ = (
        UniqueConstraint("model", "valid_from"),
        *(CheckConstraint(f"{name} >= 0", name=name) for name in RATES),
        CheckConstraint("input_hit_micros <= input_miss_micros", name="hit_within_miss"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    valid_from: Mapped[dt.datetime]
    input_miss_micros: Mapped[int]
    input_hit_micros: Mapped[int]
    egress_micros: Mapped[int] = mapped_column(server_default="0")
    relay_decode_micros: Mapped[int] = mapped_column(server_default="0")


class PriceOverride(Base, Created, OfTenant):
    """A tenant's own prices from `valid_from` to `valid_until` (absent: until the next one)."""

    __tablename__ = "price_overrides"
    __table_args__ = (
        UniqueConstraint("tenant_id", "model", "valid_from"),
        *(CheckConstraint(f"{name} >= 0", name=name) for name in RATES),
        CheckConstraint("input_hit_micros <= input_miss_micros", name="hit_within_miss"),
        CheckConstraint("valid_until > valid_from", name="valid_until"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    valid_from: Mapped[dt.datetime]
    valid_until: Mapped[dt.datetime | None]
    input_miss_micros: Mapped[int]
    input_hit_micros: Mapped[int]
    egress_micros: Mapped[int] = mapped_column(server_default="0")
    relay_decode_micros: Mapped[int] = mapped_column(server_default="0")


class ModelGrant(Base, Created, OfTenant):
    """A tenant on the allow-list of a restricted model."""

    __tablename__ = "model_grants"
    __table_args__ = (UniqueConstraint("tenant_id", "model"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
