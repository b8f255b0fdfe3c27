"""What a check of a key comes to: a pure decision over what is known of it."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prefill_control.errors import ProblemCode
from prefill_control.tenants.models import TenantState


class KeyStatus(StrEnum):
    """The outcome of a check; only VALID lets anybody in."""

    VALID = "VALID"
    NOT_FOUND = "NOT_FOUND"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"


PROBLEM_OF: Mapping[KeyStatus, ProblemCode] = {
    KeyStatus.NOT_FOUND: ProblemCode.KEY_NOT_FOUND,
    KeyStatus.REVOKED: ProblemCode.KEY_REVOKED,
    KeyStatus.EXPIRED: ProblemCode.KEY_EXPIRED,
    KeyStatus.ADDRESS_NOT_ALLOWED: ProblemCode.ADDRESS_NOT_ALLOWED,
    KeyStatus.TENANT_SUSPENDED: ProblemCode.TENANT_SUSPENDED,
    KeyStatus.RATE_LIMITED: ProblemCode.RATE_LIMITED,
    KeyStatus.QUOTA_EXCEEDED: ProblemCode.QUOTA_EXCEEDED,
    KeyStatus.BUDGET_EXHAUSTED: ProblemCode.BUDGET_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What a check needs to know of a key and its tenant."""

    revoked: bool
    expires_at: dt.datetime | None
    addresses: Sequence[str]
    tenant_state: str


def key_status(key: KnownKey | None, now: dt.datetime, address: str) -> KeyStatus:
    """The first reason against the key, in an order that tells a stranger least."""
    if key is None:
        return KeyStatus.NOT_FOUND
    if key.revoked or key.tenant_state == TenantState.CLOSED:
        return KeyStatus.REVOKED
    if key.expires_at is not None and key.expires_at <= now:
        return KeyStatus.EXPIRED
    if key.addresses and not address_within(address, key.addresses):
        return KeyStatus.ADDRESS_NOT_ALLOWED
    if key.tenant_state != TenantState.ACTIVE:
        return KeyStatus.TENANT_SUSPENDED
    return KeyStatus.VALID


def address_within(address: str, networks: Sequence[str]) -> bool:
    """Whether an address lies in one of the networks; an unknown address lies in none."""
    try:
        asked = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(asked, "ipv4_mapped", None)
    asked = mapped or asked
    return any(asked in ipaddress.ip_network(network) for network in networks)
