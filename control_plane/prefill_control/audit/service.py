"""Writing audit rows: every mutating operation calls `record` in its own transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefill_wire.ids import new_id
from sqlalchemy import inspect

from prefill_control.audit.models import AuditRow
from prefill_control.orm import Base
from prefill_control.work import CHANGED, Work

REDACTED = "[redacted]"
SECRET_COLUMNS = frozenset({"key_hash", "password_hash", "proof", "sealed", "signed"})


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to which object."""

    action: str
    subject_kind: str
    subject_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def picture(row: Base) -> dict[str, Any]:
    """A row's columns as JSON values, secrets redacted."""
    return {
        column.key: _plain(column.key, getattr(row, column.key))
        for column in inspect(type(row)).column_attrs
    }


def record(work: Work, change: Change, tenant_id: str = "") -> None:
    """Add the row; it is written when the operation is, or not at all."""
    work.session.info[CHANGED] = True
    work.session.add(
        AuditRow(
            id=new_id("aud", work.random),
            tenant_id=tenant_id or work.tenant_id,
            at=work.now,
            actor_kind=work.actor.kind,
            actor_id=work.actor.id,
            action=change.action,
            subject_kind=change.subject_kind,
            subject_id=change.subject_id,
            before=None if change.before is None else dict(change.before),
            after=None if change.after is None else dict(change.after),
            request_id=work.request_id,
            address=work.address,
        )
    )


def _plain(name: str, value: object) -> object:
    if name in SECRET_COLUMNS:
        return REDACTED if value else value
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value
