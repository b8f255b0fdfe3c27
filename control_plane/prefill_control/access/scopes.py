"""Scopes, and what each role may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Scope(StrEnum):
    """One thing that a key or a member may do."""

    PREFILL = "prefill"
    ACCOUNT_READ = "account:read"
    USAGE_READ = "usage:read"
    AUDIT_READ = "audit:read"
    MANAGE_KEYS = "manage:keys"
    MANAGE_MEMBERS = "manage:members"
    MANAGE_LIMITS = "manage:limits"
    MANAGE_DATACENTERS = "manage:datacenters"
    MANAGE_TENANT = "manage:tenant"
    PLATFORM = "platform"


class Role(StrEnum):
    """A member's role; OPERATOR exists in the platform's own tenant alone."""

    OWNER = "owner"
    ADMIN = "admin"
    BILLING = "billing"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    OPERATOR = "operator"


WILDCARD = "manage:*"
_READ = frozenset({Scope.ACCOUNT_READ, Scope.USAGE_READ})
_ADMIN = frozenset(Scope) - {Scope.MANAGE_TENANT, Scope.PLATFORM}
ROLE_SCOPES: Mapping[Role, frozenset[Scope]] = {
    Role.VIEWER: _READ,
    Role.BILLING: _READ | {Scope.AUDIT_READ},
    Role.DEVELOPER: _READ | {Scope.PREFILL, Scope.MANAGE_KEYS},
    Role.ADMIN: _ADMIN,
    Role.OWNER: _ADMIN | {Scope.MANAGE_TENANT},
    Role.OPERATOR: frozenset(Scope),
}


def expand(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes that these names stand for; `manage:*` is every manage scope."""
    found: set[Scope] = set()
    for name in names:
        if name == WILDCARD:
            found |= {scope for scope in Scope if scope.startswith("manage:")}
        else:
            found.add(Scope(name))
    return frozenset(found)
