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

from prefill_control.errors import A_TIME, FieldFault, invalid, misshapen

MAX_PAGE = 200
DEFAULT_PAGE = 50
MAX_CURSOR_CHARACTERS = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many rows, after which one."""

    limit: int = DEFAULT_PAGE
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`since` is included, `until` is not; VALIDATION_FAILED for a time without its zone: the
    driver would take it for one of this machine's."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None

    def __post_init__(self) -> None:
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.tzinfo is None:
                raise misshapen(FieldFault(name, f"expected {A_TIME}"))


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
    first = getattr(row, order.first.key)
    text = first.isoformat() if isinstance(first, dt.datetime) else str(first)
    position = [text, str(getattr(row, order.second.key))]
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def _after(order: Order, cursor: str) -> ColumnElement[bool]:
    here = tuple_(order.first, order.second)
    there = _position(order, cursor)
    return here < there if order.descending else here > there


def _position(order: Order, cursor: str) -> tuple[dt.datetime | str, str]:
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        first, second = msgspec.json.decode(data, type=tuple[str, str])
        if "\x00" in first + second:
            raise ValueError
        if order.first.type.python_type is not dt.datetime:
            return first, second
        return dt.datetime.fromisoformat(first).astimezone(dt.UTC), second
    except (binascii.Error, ValueError, OverflowError, msgspec.DecodeError):
        raise invalid("cursor", "no cursor of this list") from None
