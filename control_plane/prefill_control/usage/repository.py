"""All SQL about receipts, sums and request records."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.keys import repository as keys
from prefill_control.pages import Order, PageOf, PageRequest, Span, page_of
from prefill_control.tenants.models import Tenant
from prefill_control.usage.models import Receipt, RequestRecord, UsageHour

RECEIPTS = Order(Receipt.finished_at, Receipt.receipt_id)
REQUESTS = Order(RequestRecord.at, RequestRecord.request_id)
SUMS = ("requests", "tokens", "cached_tokens", "state_bytes_sent", "amount_micros")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter(Span):
    """Empty and absent fields select everything."""

    key_id: str = ""
    model: str = ""
    datacenter: str = ""


async def known_tenants(session: AsyncSession, ids: Collection[str]) -> frozenset[str]:
    """Those of the ids that name a tenant."""
    found = await session.scalars(select(Tenant.id).where(Tenant.id.in_(sorted(ids))))
    return frozenset(found)


async def insert_receipt(session: AsyncSession, row: Receipt) -> bool:
    """Whether the receipt was new; a concurrent insert of the same id is waited for."""
    values = {column.name: getattr(row, column.name) for column in Receipt.__table__.columns}
    statement = insert(Receipt).values(**values).on_conflict_do_nothing()
    done = await session.scalar(statement.returning(Receipt.receipt_id))
    return done is not None


async def insert_request(session: AsyncSession, row: RequestRecord) -> None:
    """The record of an attempt; the first one stays."""
    values = {c.name: getattr(row, c.name) for c in RequestRecord.__table__.columns}
    await session.execute(insert(RequestRecord).values(**values).on_conflict_do_nothing())


async def signed_of(session: AsyncSession, receipt_id: str) -> bytes | None:
    """The signed bytes that are stored under an id."""
    return await session.scalar(select(Receipt.signed).where(Receipt.receipt_id == receipt_id))


async def add_to_hours(session: AsyncSession, rows: Sequence[Receipt]) -> None:
    """Add fresh receipts to their hours, in one order of row locks for everybody."""
    sums: dict[tuple[str, dt.datetime, str, str, str], list[int]] = defaultdict(lambda: [0] * 5)
    for row in rows:
        hour = row.finished_at.replace(minute=0, second=0, microsecond=0)
        into = sums[row.tenant_id, hour, row.key_id, row.model, row.datacenter]
        amounts = (1, row.token_count, row.cached_tokens, row.state_bytes_sent, row.amount_micros)
        into[:] = [a + b for a, b in zip(into, amounts, strict=True)]
    for (tenant_id, hour, key_id, model, datacenter), amounts_ in sorted(sums.items()):
        statement = insert(UsageHour).values(
            tenant_id=tenant_id,
            hour=hour,
            key_id=key_id,
            model=model,
            datacenter=datacenter,
            **dict(zip(SUMS, amounts_, strict=True)),
        )
        new = statement.excluded
        grown = {name: getattr(UsageHour, name) + getattr(new, name) for name in SUMS}
        index = ["tenant_id", "hour", "key_id", "model", "datacenter"]
        await session.execute(statement.on_conflict_do_update(index_elements=index, set_=grown))
    latest: dict[str, dt.datetime] = {}
    for row in rows:
        latest[row.key_id] = max(row.finished_at, latest.get(row.key_id, row.finished_at))
    await keys.mark_used(session, latest)


async def receipts(
    session: AsyncSession, wanted: UsageFilter, asked: PageRequest
) -> PageOf[Receipt]:
    """Receipts, the latest finished first."""
    statement = select(Receipt)
    for column, value in (
        (Receipt.key_id, wanted.key_id),
        (Receipt.model, wanted.model),
        (Receipt.datacenter, wanted.datacenter),
    ):
        if value:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(Receipt.finished_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(Receipt.finished_at < wanted.until)
    return await page_of(session, statement, RECEIPTS, asked)


async def requests(
    session: AsyncSession, wanted: UsageFilter, asked: PageRequest
) -> PageOf[RequestRecord]:
    """Request records, the latest first."""
    statement = select(RequestRecord)
    for column, value in (
        (RequestRecord.key_id, wanted.key_id),
        (RequestRecord.model, wanted.model),
        (RequestRecord.datacenter, wanted.datacenter),
    ):
        if value:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(RequestRecord.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(RequestRecord.at < wanted.until)
    return await page_of(session, statement, REQUESTS, asked)


async def request(session: AsyncSession, request_id: str) -> RequestRecord | None:
    """The newest attempt of one request."""
    statement = select(RequestRecord).where(RequestRecord.request_id == request_id)
    return await session.scalar(statement.order_by(RequestRecord.attempt.desc()).limit(1))
