"""What is said about keys over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from prefill_control.access.scopes import WILDCARD, Scope
from prefill_control.keys.models import ApiKey
from prefill_control.keys.service import Issued, KeyDraft
from prefill_control.keys.status import KeyStatus
from prefill_control.web.schemas import Input, Name, Zoned

Network = Annotated[str, msgspec.Meta(max_length=64, examples=["192.0.2.0/24"])]
GrantedScope = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^({'|'.join([*Scope, WILDCARD.replace('*', '[*]')])})$",
        description=f"One of {', '.join([*Scope, WILDCARD])}.",
        examples=["prefill", "usage:read"],
    ),
]
Scopes = Annotated[list[GrantedScope], msgspec.Meta(min_length=1, max_length=16)]
Networks = Annotated[list[Network], msgspec.Meta(max_length=64)]
Overlap = Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400, examples=[3600])]
Presented = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class KeyInput(Input):
    """A key to be, or what it is changed to."""

    name: Name
    scopes: Scopes
    addresses: Networks = msgspec.field(default_factory=list)
    expires_at: Zoned | None = None

    def draft(self) -> KeyDraft:
        """For the service."""
        return KeyDraft(
            name=self.name,
            scopes=self.scopes,
            addresses=self.addresses,
            expires_at=self.expires_at,
        )


class Rotation(Input):
    """For how long the old secret still works."""

    overlap_seconds: Overlap = 3600


class KeyCheckInput(Input):
    """A secret that somebody showed, and where from."""

    secret: Presented
    address: Annotated[str, msgspec.Meta(max_length=64)] = ""


class KeyCheckView(msgspec.Struct, frozen=True, kw_only=True):
    """What the check came to; ids only when the key is known to the caller's account."""

    status: KeyStatus
    key_id: str
    tenant_id: str
    scopes: list[str]


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    tenant_id: str
    name: str
    prefix: str
    last4: str
    scopes: list[str]
    addresses: list[str]
    state: str
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None
    replaced_by: str | None
    created_by: str
    created_at: dt.datetime
    version: int

    @classmethod
    def of(cls, row: ApiKey) -> KeyView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class IssuedKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh key with its secret: shown here, and never again."""

    key: KeyView
    secret: str

    @classmethod
    def of(cls, issued: Issued) -> IssuedKeyView:
        """For the one answer that shows it."""
        return cls(key=KeyView.of(issued.key), secret=issued.secret.text)
