"""Members: an account's people, and their password sessions."""

from __future__ import annotations

import datetime as dt

from prefill_cloud.manage.calls import (
    NO_VERSION,
    Call,
    Rows,
    View,
    changing,
    doing,
    encoded,
    listing,
    place,
    reading,
    removing,
)
from prefill_cloud.manage.secret import Secret
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class Member(View, frozen=True, kw_only=True):
    """A person with a role; `locked_until` after repeated wrong passwords."""

    id: str
    tenant_id: str
    email: str
    name: str
    role: str
    has_password: bool
    locked_until: dt.datetime | None
    created_at: dt.datetime
    version: int


class Session(View, frozen=True, kw_only=True):
    """A session; its token is a credential, told here and never again."""

    token: Secret
    member_id: str
    expires_at: dt.datetime


class Members(Noun[M]):
    """`client.members`."""

    @verb("createMember")
    def create(
        self, email: str, *, name: str, role: str, password: str = "", idempotency_key: str = ""
    ) -> Call[Member]:
        """Add a person, with no more rights than the caller has."""
        body = {"email": email, "name": name, "role": role, "password": password or None}
        return doing(Member, body, "members", key=idempotency_key)

    @list_verb("listMembers")
    def list(self, *, role: str = "") -> Rows[Member]:
        """People of the account, newest first."""
        return listing(Member, "members", {"role": role})

    @verb("readMember")
    def read(self, member_id: str) -> Call[Member]:
        """Read a person."""
        return reading(Member, "members", member_id)

    @verb("updateMember")
    def update(self, member_id: str, *, name: str, role: str, version: int) -> Call[Member]:
        """Change name and role; the last owner stays one."""
        return changing(Member, {"name": name, "role": role}, "members", member_id, version=version)

    @verb("setMemberPassword")
    def set_password(self, member_id: str, password: str) -> Call[Member]:
        """Set a password of at least 12 characters; every session of the person ends."""
        body = {"password": password}
        return changing(Member, body, "members", member_id, "password", version=NO_VERSION)

    @verb("deleteMember")
    def delete(self, member_id: str) -> Call[None]:
        """Remove a person; keys that they made stay."""
        return removing("members", member_id)


class Sessions(Noun[M]):
    """`client.sessions`."""

    @verb("createSession")
    def create(self, *, tenant_id: str, email: str, password: str) -> Call[Session]:
        """Sign in. A wrong password counts, so it is sent again only if it was not received."""
        body = encoded({"tenant_id": tenant_id, "email": email, "password": password})
        return Call(method="POST", path=place("sessions"), answer=Session, body=body, once=True)

    @verb("deleteSessions")
    def delete_all(self) -> Call[None]:
        """Sign out everywhere: every session of the person whose session this is."""
        return removing("sessions")
