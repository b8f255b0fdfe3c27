"""Pages by cursor: newest first, stable while rows are added, the same query for every noun."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from prefill_control.errors import invalid

MAX_PAGE = 200
DEFAULT_PAGE = 50
MAX_CURSOR_CHARACTERS = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many rows, after which one."""

    limit: int = DEFAULT_PAGE
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class PageOf(Generic[T]):
    """Some rows, and the cursor of the next page (empty on the last)."""

    rows: Sequence[T]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Order:
    """Two columns that together never repeat: a time (or a name) and an id."""

    first: InstrumentedAttribute[Any]
    second: InstrumentedAttribute[Any]
    descending: bool = True


class _Position(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    first: dt.datetime | str
    second: str


async def page_of(
    session: AsyncSession, statement: Select[T], order: Order, asked: PageRequest
) -> PageOf[T]:
    """One page of a statement's rows; a damaged cursor is VALIDATION_FAILED."""
    if asked.cursor:
        statement = statement.where(_after(order, asked.cursor))
    columns = (order.first, order.second)
    ordered = [column.desc() if order.descending else column.asc() for column in columns]
    found = await session.scalars(statement.order_by(*ordered).limit(asked.limit + 1))
    rows = found.all()
    kept = rows[: asked.limit]
    return PageOf(kept, _cursor(order, kept[-1]) if len(rows) > asked.limit else "")


def _cursor(order: Order, row: object) -> str:
    position = _Position(getattr(row, order.first.key), getattr(row, order.second.key))
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def _after(order: Order, cursor: str) -> ColumnElement[bool]:
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = msgspec.json.decode(data, type=_Position)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise invalid("cursor", "no cursor of this list") from None
    is_time = order.first.type.python_type is dt.datetime
    aware = isinstance(position.first, dt.datetime) and position.first.tzinfo is not None
    if aware is not is_time or "\x00" in f"{position.first}{position.second}":
        raise invalid("cursor", "no cursor of this list")
    here = tuple_(order.first, order.second)
    there = (position.first, position.second)
    return here < there if order.descending else here > there
