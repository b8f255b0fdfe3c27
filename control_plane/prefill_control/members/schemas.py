"""What is said about members and sessions over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from prefill_control.access.scopes import Role
from prefill_control.members.models import Member
from prefill_control.members.passwords import LEAST_CHARACTERS, MOST_CHARACTERS
from prefill_control.members.service import MemberDraft
from prefill_control.web.schemas import Id, Input, Name

Email = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=254,
        pattern=r"^[!-?A-~]+@[!-?A-~]+$",
        description="An e-mail address of 254 characters at most, such as ada@example.com.",
        examples=["ada@example.com"],
    ),
]
Password = Annotated[
    str,
    msgspec.Meta(
        min_length=LEAST_CHARACTERS,
        max_length=MOST_CHARACTERS,
        examples=["correct horse battery staple"],
    ),
]
Typed = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_CHARACTERS)]


class MemberInput(Input):
    """A member to be."""

    email: Email
    name: Name
    role: Role
    password: Password | None = None

    def draft(self) -> MemberDraft:
        """For the service."""
        return MemberDraft(
            email=self.email, name=self.name, role=self.role, password=self.password or ""
        )


class MemberChange(Input):
    """What a member is changed to."""

    name: Name
    role: Role


class NewPassword(Input):
    """A password, at least 12 characters."""

    password: Password


class SignIn(Input):
    """What a person types."""

    tenant_id: Id
    email: Email
    password: Typed


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A member."""

    id: str
    tenant_id: str
    email: str
    name: str
    role: Role
    has_password: bool
    locked_until: dt.datetime | None
    created_at: dt.datetime
    version: int

    @classmethod
    def of(cls, row: Member) -> MemberView:
        """From its row."""
        return cls(
            id=row.id,
            tenant_id=row.tenant_id,
            email=row.email,
            name=row.name,
            role=Role(row.role),
            has_password=bool(row.password_hash),
            locked_until=row.locked_until,
            created_at=row.created_at,
            version=row.version,
        )


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session with its token: shown here, and never again."""

    token: str
    member_id: str
    expires_at: dt.datetime
