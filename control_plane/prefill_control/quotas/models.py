"""The table of limits."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, OfTenant, Versioned

AMOUNTS = (
    "requests_per_second",
    "requests_burst",
    "tokens_per_second",
    "tokens_burst",
    "concurrency",
    "day_tokens_soft",
    "day_tokens_hard",
    "month_tokens_soft",
    "month_tokens_hard",
)


class Limits(Base, Created, OfTenant, Versioned):
    """The limits of a tenant (`key_id` absent) or of one key. Absent numbers: no such limit."""

    __tablename__ = "limits"
    __table_args__ = (
        Index(
            "uq_limits_subject",
            "tenant_id",
            text("coalesce(key_id, '')"),
            unique=True,
        ),
        *(CheckConstraint(f"{name} >= 0", name=name) for name in AMOUNTS),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"), index=True)
    requests_per_second: Mapped[int | None]
    requests_burst: Mapped[int | None]
    tokens_per_second: Mapped[int | None]
    tokens_burst: Mapped[int | None]
    concurrency: Mapped[int | None]
    day_tokens_soft: Mapped[int | None]
    day_tokens_hard: Mapped[int | None]
    month_tokens_soft: Mapped[int | None]
    month_tokens_hard: Mapped[int | None]
