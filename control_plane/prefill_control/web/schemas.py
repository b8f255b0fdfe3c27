"""Shapes that every noun's input and output share."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, QueryParameter

from prefill_control.pages import DEFAULT_PAGE, MAX_CURSOR_CHARACTERS, MAX_PAGE, PageRequest
from prefill_control.web.boundary import WORK
from prefill_control.work import Work

T = TypeVar("T")
V = TypeVar("V", bound=msgspec.Struct)
CURRENCY: Final = "USD"
Currency = Annotated[
    Literal["USD"],
    msgspec.Meta(
        title="Currency",
        description="ISO 4217. Every `..._micros` beside it is in millionths of one unit of it.",
    ),
]
Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=80,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="A text of 1 to 80 characters, none of them a control character.",
        examples=["A name"],
    ),
]
Text = Annotated[
    str,
    msgspec.Meta(
        max_length=500,
        pattern=r"^[^\x00]*$",
        description="A text of 500 characters at most, none of them NUL.",
    ),
]
Slug = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        description="A name of 1 to 63 of a-z, 0-9, dot, underscore and hyphen that begins with a "
        "letter or digit, such as a-name.",
        examples=["a-name"],
    ),
]
Id = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z]{3}_[0-9a-z_-]{1,60}$",
        description="An id such as ten_0123: three letters, an underscore and 1 to 60 of a-z, 0-9, "
        "underscore and hyphen.",
        examples=["ten_" + "0" * 26],
    ),
]  # in bodies
Amount = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
IfMatch = Annotated[
    str | None,
    HeaderParameter(name="If-Match", description="The ETag of what is changed.", max_length=64),
]


Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Rows a page.")]
Cursor = Annotated[
    str, QueryParameter(max_length=MAX_CURSOR_CHARACTERS, description="From the page before.")
]
Zoned = Annotated[dt.datetime, msgspec.Meta(tz=True)]
Moment = Annotated[
    Zoned | None,
    QueryParameter(description="A time with its zone: 2030-01-31T00:00:00Z."),
]
PathId = FromPath[str]
ThisWork = NamedDependency[Work]
ThisPage = NamedDependency[PageRequest]


class Input(msgspec.Struct, forbid_unknown_fields=True):
    """A body that was sent: a field that is not named here is refused."""


def priced(kind: type[V], row: Any) -> V:
    """A row as a view that also names the currency of its amounts."""
    names = (name for name in kind.__struct_fields__ if name != "currency")
    return kind(currency=CURRENCY, **{name: getattr(row, name) for name in names})


class Listing(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page; ask for the next one with `cursor=next_cursor` until it is empty."""

    items: list[T]
    next_cursor: str


def provide_work(request: Request[object, object, State]) -> Work:
    """The unit of work that the boundary opened."""
    work = request.scope["state"][WORK]
    if not isinstance(work, Work):
        raise TypeError("this handler runs outside of the boundary")
    return work


def provide_page(limit: Limit = DEFAULT_PAGE, cursor: Cursor = "") -> PageRequest:
    """The page that the query asks for."""
    return PageRequest(limit, cursor)
