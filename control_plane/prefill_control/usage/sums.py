"""Usage summed by what the caller asks for, page by page over the groups."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from sqlalchemy import ColumnElement, Label, Subquery, func, literal, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.errors import invalid
from prefill_control.pages import PageRequest
from prefill_control.tenants.models import Tenant
from prefill_control.usage.models import UsageHour
from prefill_control.usage.repository import SUMS, UsageFilter


class GroupBy(StrEnum):
    """What usage may be summed by; hours, days and months are UTC."""

    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    DATACENTER = "datacenter"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Sum:
    """One group: the values it is of, in the order asked for, and its five sums."""

    group: dict[str, str]
    amounts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Sums:
    """Some groups, and the cursor of the next (empty on the last page)."""

    rows: Sequence[Sum]
    next_cursor: str


async def summed(
    session: AsyncSession, by: Sequence[GroupBy], wanted: UsageFilter, asked: PageRequest
) -> Sums:
    """Sums of the rows that the transaction sees, ordered by group."""
    keys = list(dict.fromkeys(by)) or [GroupBy.TENANT]
    after = _read(asked.cursor, len(keys)) if asked.cursor else []
    first = keys[0] is GroupBy.TENANT
    groups = _tenant_by_tenant(keys[1:], wanted, after) if first else _together(keys, wanted)
    named = [groups.c[key.value] for key in keys]
    statement = select(groups).order_by(*named).limit(asked.limit + 1)
    if after:
        statement = statement.where(tuple_(*named) > tuple_(*map(literal, after)))
    found = (await session.execute(statement)).mappings().all()
    kept = [
        Sum({k.value: row[k.value] for k in keys}, {name: int(row[name]) for name in SUMS})
        for row in found[: asked.limit]
    ]
    more = len(found) > asked.limit
    return Sums(kept, _cursor(kept[-1]) if more else "")


def _together(keys: Sequence[GroupBy], wanted: UsageFilter) -> Subquery:
    """Every group at once."""
    columns = [_column(key).label(key.value) for key in keys]
    return select(*columns, *_totals()).where(*_where(wanted)).group_by(*columns).subquery()


def _tenant_by_tenant(
    rest: Sequence[GroupBy], wanted: UsageFilter, after: Sequence[str]
) -> Subquery:
    """The groups of one tenant after the other, in the order of their ids: of ten thousand, a page
    reads those that it shows and no more. Whatever the planner thinks of the table: it cannot know
    whether the policy shows an operator one tenant or all."""
    tenants = select(Tenant.id).order_by(Tenant.id)
    if after:
        tenants = tenants.where(Tenant.id >= after[0])
    each = tenants.subquery()
    columns = [_column(key).label(key.value) for key in rest]
    own = select(*columns, *_totals()).where(UsageHour.tenant_id == each.c.id, *_where(wanted))
    sums = own.group_by(*columns).having(func.count() > 0).lateral()
    tenant = each.c.id.label(GroupBy.TENANT.value)
    return select(tenant, *sums.c).join_from(each, sums, true()).subquery()


def _totals() -> list[Label[int]]:
    return [func.sum(getattr(UsageHour, name)).label(name) for name in SUMS]


def _column(key: GroupBy) -> ColumnElement[str]:
    texts: dict[GroupBy, ColumnElement[str]] = {
        GroupBy.TENANT: UsageHour.tenant_id.expression,
        GroupBy.KEY: UsageHour.key_id.expression,
        GroupBy.MODEL: UsageHour.model.expression,
        GroupBy.DATACENTER: UsageHour.datacenter.expression,
        GroupBy.HOUR: _time('YYYY-MM-DD"T"HH24:00:00"Z"'),
        GroupBy.DAY: _time("YYYY-MM-DD"),
        GroupBy.MONTH: _time("YYYY-MM"),
    }
    return texts[key].collate("C")


def _time(form: str) -> ColumnElement[str]:
    return func.to_char(func.timezone("UTC", UsageHour.hour), form)


def _where(wanted: UsageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for column, value in (
        (UsageHour.key_id, wanted.key_id),
        (UsageHour.model, wanted.model),
        (UsageHour.datacenter, wanted.datacenter),
    ):
        if value:
            conditions.append(column == value)
    if wanted.since is not None:
        conditions.append(UsageHour.hour >= wanted.since)
    if wanted.until is not None:
        conditions.append(UsageHour.hour < wanted.until)
    return conditions


def _cursor(last: Sum) -> str:
    data = msgspec.json.encode(list(last.group.values()))
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _read(cursor: str, count: int) -> list[str]:
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        values = msgspec.json.decode(data, type=list[str])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise invalid("cursor", "no cursor of this list") from None
    if len(values) != count or any("\x00" in value for value in values):
        raise invalid("cursor", "no cursor of this list")
    return values
