"""One call of the API as a value: what is sent, what comes back, and whether it may be repeated.

No I/O here: the same values are sent by the asynchronous and by the blocking client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime as Moment
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from prefill_cloud.manage.errors import invalid

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
ANY_VERSION: Final = -1  # change whatever is there
NO_VERSION: Final = 0  # there is none yet
MAX_PAGE_ROWS: Final = 200
Query = tuple[tuple[str, str], ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A result. Fields that a newer API adds are passed over."""


class Page(View, Generic[T], frozen=True, kw_only=True):
    """Some rows, and the cursor of the next page: empty on the last."""

    items: tuple[T, ...]
    next_cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request and the type of its answer (None: an answer without a body).

    `keyed`: it gets an Idempotency-Key, so that a repetition is answered by the first answer.
    `once`: nothing tells a repetition from a second call, so it is sent again only if it surely
    was not received.
    """

    method: str
    path: str
    answer: type[T]
    query: Query = ()
    body: bytes = field(default=b"", repr=False)  # may hold a password
    if_match: str = ""
    keyed: bool = False
    idempotency_key: str = field(default="", repr=False)
    once: bool = False


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """A list, page by page."""

    first: Call[Page[T]]

    def at(self, cursor: str, limit: int) -> Call[Page[T]]:
        """The call for one page: `limit` rows from a cursor on."""
        if not 1 <= limit <= MAX_PAGE_ROWS:
            raise invalid(f"a page of {limit} rows", f"Ask for 1 to {MAX_PAGE_ROWS} rows a page.")
        more = [("limit", str(limit)), *([("cursor", cursor)] if cursor else [])]
        return replace(self.first, query=(*self.first.query, *more))


def place(*parts: str) -> str:
    """A path below `/v1` of words and ids; an id can never name another place."""
    for part in parts:
        if part in ("", ".", ".."):
            raise invalid(f"{part!r} is no id", "Name the object that is meant.")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def reading(answer: type[T], *parts: str) -> Call[T]:
    """GET one object."""
    return Call(method="GET", path=place(*parts), answer=answer)


def listing(item: type[T], noun: str, filters: Mapping[str, Any] = MappingProxyType({})) -> Rows[T]:
    """GET many objects; a filter that is empty is not sent, a sequence is sent value by value."""
    query: list[tuple[str, str]] = []
    for name, value in filters.items():
        several = () if value is None else [value] if isinstance(value, str | Moment) else value
        query += [(name, _text(each)) for each in several if each != ""]
    answer = Page[item]  # type: ignore[valid-type]
    return Rows(Call(method="GET", path=place(noun), answer=answer, query=tuple(query)))


def asking(answer: type[T], body: object, *parts: str) -> Call[T]:
    """POST that changes nothing."""
    return Call(method="POST", path=place(*parts), answer=answer, body=encoded(body))


def doing(answer: type[T], body: object, *parts: str, key: str = "") -> Call[T]:
    """POST that makes or moves something: under an Idempotency-Key."""
    return Call(
        method="POST",
        path=place(*parts),
        answer=answer,
        body=encoded(body),
        keyed=True,
        idempotency_key=key,
    )


def changing(answer: type[T], body: object, *parts: str, version: int) -> Call[T]:
    """PUT over the version that the caller has seen."""
    return Call(
        method="PUT",
        path=place(*parts),
        answer=answer,
        body=encoded(body),
        if_match=if_match(version),
    )


def removing(*parts: str) -> Call[None]:
    """DELETE."""
    return Call(method="DELETE", path=place(*parts), answer=type(None))


def if_match(version: int) -> str:
    """The header for a version; empty for NO_VERSION."""
    if version == NO_VERSION:
        return ""
    return "*" if version == ANY_VERSION else f'"{version}"'


def encoded(body: object) -> bytes:
    """JSON."""
    return msgspec.json.encode(body)


def part_of(kind: type[S], view: msgspec.Struct) -> S:
    """The fields of `kind` out of a view that has more."""
    return kind(**{name: getattr(view, name) for name in kind.__struct_fields__})


def with_name(name: str, values: msgspec.Struct) -> Mapping[str, object]:
    """A new object's body: its name and its values."""
    return {"name": name, **msgspec.structs.asdict(values)}


def _text(value: str | Moment) -> str:
    if isinstance(value, str):
        return value
    if value.tzinfo is None:
        raise invalid(f"{value.isoformat()} has no time zone", "Give times with a zone, e.g. UTC.")
    return value.isoformat()
