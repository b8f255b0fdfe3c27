"""The tables of members and of their sessions."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from prefill_control.orm import Base, Created, OfTenant, Versioned


class Member(Base, Created, OfTenant, Versioned):
    """A person in one tenant. `password_hash` is argon2id, or empty: no password sign-in.

    `failed_sign_ins` and `locked_until` tell people what `SignInTries` decided.
    """

    __tablename__ = "members"
    __table_args__ = (
        UniqueConstraint("tenant_id", "email"),
        CheckConstraint(
            "role IN ('owner', 'admin', 'billing', 'developer', 'viewer', 'operator')", name="role"
        ),
        Index("ix_members_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    role: Mapped[str]
    password_hash: Mapped[str] = mapped_column(server_default="")
    failed_sign_ins: Mapped[int] = mapped_column(server_default="0")
    locked_until: Mapped[dt.datetime | None]


class SignInTries(Base):
    """Wrong passwords for one tenant and address, whether or not anybody has that address.

    Nobody's row: a slot is found by an HMAC of both, and another address that falls into it takes
    it over, so that strangers can fill the slots and no more than those.
    """

    __tablename__ = "sign_in_tries"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    proof: Mapped[str]
    failures: Mapped[int] = mapped_column(server_default="0")
    locked_until: Mapped[dt.datetime | None]


class MemberSession(Base, Created, OfTenant):
    """A signed-in member; the token's HMAC is its proof, the token itself is nowhere."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("members.id", ondelete="CASCADE"), index=True)
    proof: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[dt.datetime]
    address: Mapped[str] = mapped_column(server_default="")
