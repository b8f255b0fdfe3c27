"""API keys: what they may do, from where and until when; a secret is told once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from prefill_cloud.manage.calls import (
    Call,
    Rows,
    View,
    asking,
    changing,
    doing,
    listing,
    part_of,
    reading,
)
from prefill_cloud.manage.secret import Secret
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class KeyValues(View, frozen=True, kw_only=True):
    """What is chosen of a key: scopes, networks it may be used from (none: any), its end."""

    name: str
    scopes: Sequence[str]
    addresses: Sequence[str] = ()
    expires_at: dt.datetime | None = None


class Key(KeyValues, frozen=True, kw_only=True):
    """A key without its secret; `state` is active or revoked."""

    id: str
    tenant_id: str
    prefix: str
    last4: str
    state: str
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None
    replaced_by: str | None
    created_by: str
    created_at: dt.datetime
    version: int

    def values(self) -> KeyValues:
        """What `update` takes."""
        return part_of(KeyValues, self)


class IssuedKey(View, frozen=True, kw_only=True):
    """A fresh key and its secret, told here and never again."""

    key: Key
    secret: Secret


class KeyCheck(View, frozen=True, kw_only=True):
    """What a shown secret comes to: VALID, or why not."""

    status: str
    key_id: str
    tenant_id: str
    scopes: Sequence[str]


class Keys(Noun[M]):
    """`client.keys`."""

    @verb("createKey")
    def create(self, values: KeyValues, *, idempotency_key: str = "") -> Call[IssuedKey]:
        """Create a key with no more rights than the caller has."""
        return doing(IssuedKey, values, "keys", key=idempotency_key)

    @list_verb("listKeys")
    def list(self, *, state: str = "") -> Rows[Key]:
        """Keys of the account, newest first."""
        return listing(Key, "keys", {"state": state})

    @verb("readKey")
    def read(self, key_id: str) -> Call[Key]:
        """Read a key."""
        return reading(Key, "keys", key_id)

    @verb("updateKey")
    def update(self, key_id: str, values: KeyValues, *, version: int) -> Call[Key]:
        """Replace name, scopes, addresses and end; the secret stays."""
        return changing(Key, values, "keys", key_id, version=version)

    @verb("rotateKey")
    def rotate(
        self, key_id: str, *, overlap_seconds: int = 3600, idempotency_key: str = ""
    ) -> Call[IssuedKey]:
        """Issue a successor with the same rights; the old secret works during the overlap."""
        body = {"overlap_seconds": overlap_seconds}
        return doing(IssuedKey, body, "keys", key_id, "rotate", key=idempotency_key)

    @verb("revokeKey")
    def revoke(self, key_id: str) -> Call[Key]:
        """Revoke for good; within five seconds no gateway takes the key."""
        return doing(Key, {}, "keys", key_id, "revoke")

    @verb("checkKey")
    def check(self, secret: str, *, address: str = "") -> Call[KeyCheck]:
        """What a secret comes to, shown from an address."""
        return asking(KeyCheck, {"secret": secret, "address": address}, "key-checks")
