"""Audit rows: who did what to which object; they are only ever added."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from prefill_cloud.manage.calls import Rows, View, listing
from prefill_cloud.manage.verbs import M, Noun, list_verb


class AuditRow(View, frozen=True, kw_only=True):
    """One change, with how its object looked before and after; secrets are redacted."""

    id: str
    tenant_id: str
    at: dt.datetime
    actor_kind: str
    actor_id: str
    action: str
    subject_kind: str
    subject_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str
    address: str


class AuditFilter(TypedDict, total=False):
    """Only rows with this; times carry their zone, and `until` is excluded."""

    action: str
    actor_id: str
    subject_id: str
    since: dt.datetime | None
    until: dt.datetime | None


class Audit(Noun[M]):
    """`client.audit`."""

    @list_verb("listAuditRows")
    def list(self, **only: Unpack[AuditFilter]) -> Rows[AuditRow]:
        """Audit rows, newest first."""
        return listing(AuditRow, "audit-rows", only)
