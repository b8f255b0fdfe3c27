"""Tenants: the accounts; creating and moving them is for operators."""

from __future__ import annotations

import datetime as dt

from prefill_cloud.manage.calls import (
    Call,
    Rows,
    View,
    doing,
    encoded,
    if_match,
    listing,
    place,
    reading,
)
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class Tenant(View, frozen=True, kw_only=True):
    """An account; `state` is active, suspended or closed."""

    id: str
    name: str
    state: str
    reason: str
    created_at: dt.datetime
    closed_at: dt.datetime | None
    version: int


class Tenants(Noun[M]):
    """`client.tenants`."""

    @verb("createTenant")
    def create(self, name: str, *, idempotency_key: str = "") -> Call[Tenant]:
        """Create an account."""
        return doing(Tenant, {"name": name}, "tenants", key=idempotency_key)

    @list_verb("listTenants")
    def list(self, *, state: str = "") -> Rows[Tenant]:
        """Every account for operators, the own one for others; newest first."""
        return listing(Tenant, "tenants", {"state": state})

    @verb("readTenant")
    def read(self, tenant_id: str) -> Call[Tenant]:
        """Read an account."""
        return reading(Tenant, "tenants", tenant_id)

    @verb("updateTenant")
    def update(self, tenant_id: str, *, name: str, version: int) -> Call[Tenant]:
        """Rename an account of which the caller has seen `version`."""
        return Call(
            method="PATCH",
            path=place("tenants", tenant_id),
            answer=Tenant,
            body=encoded({"name": name}),
            if_match=if_match(version),
        )

    @verb("suspendTenant")
    def suspend(self, tenant_id: str, *, reason: str = "") -> Call[Tenant]:
        """Refuse its keys and sessions until it is resumed; everything is kept."""
        return doing(Tenant, {"reason": reason}, "tenants", tenant_id, "suspend")

    @verb("resumeTenant")
    def resume(self, tenant_id: str, *, reason: str = "") -> Call[Tenant]:
        """Let the same keys work again."""
        return doing(Tenant, {"reason": reason}, "tenants", tenant_id, "resume")

    @verb("closeTenant")
    def close(self, tenant_id: str, *, reason: str = "") -> Call[Tenant]:
        """Close for good: keys are revoked, receipts and audit rows stay."""
        return doing(Tenant, {"reason": reason}, "tenants", tenant_id, "close")
