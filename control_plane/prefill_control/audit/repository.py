"""All SQL that reads audit rows."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.audit.models import AuditRow
from prefill_control.pages import Order, PageOf, PageRequest, Span, page_of

ORDER = Order(AuditRow.at, AuditRow.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter(Span):
    """Empty and absent fields select everything."""

    action: str = ""
    actor_id: str = ""
    subject_id: str = ""


async def page(session: AsyncSession, wanted: AuditFilter, asked: PageRequest) -> PageOf[AuditRow]:
    """Rows, newest first."""
    statement = select(AuditRow)
    for column, value in (
        (AuditRow.action, wanted.action),
        (AuditRow.actor_id, wanted.actor_id),
        (AuditRow.subject_id, wanted.subject_id),
    ):
        if value:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(AuditRow.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(AuditRow.at < wanted.until)
    return await page_of(session, statement, ORDER, asked)
