"""What is said about tenants over HTTP."""

from __future__ import annotations

import datetime as dt

import msgspec

from prefill_control.tenants.models import Tenant, TenantState
from prefill_control.web.schemas import Input, Name, Text


class TenantDraft(Input):
    """A tenant to be."""

    name: Name


class TenantPatch(Input):
    """What may be changed of a tenant."""

    name: Name


class Reason(Input):
    """Why something is done; kept in the audit row."""

    reason: Text = ""


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant."""

    id: str
    name: str
    state: TenantState
    reason: str
    created_at: dt.datetime
    closed_at: dt.datetime | None
    version: int

    @classmethod
    def of(cls, row: Tenant) -> TenantView:
        """From its row."""
        return cls(
            id=row.id,
            name=row.name,
            state=TenantState(row.state),
            reason=row.reason,
            created_at=row.created_at,
            closed_at=row.closed_at,
            version=row.version,
        )
