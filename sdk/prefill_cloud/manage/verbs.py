"""A verb is written once, as a function that builds a Call; both clients get a method of it.

On a noun of the asynchronous client the method is awaited, on one of the blocking client it
returns the answer; type checkers see both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from prefill_cloud.manage.calls import MAX_PAGE_ROWS, Call, Page, Rows
from prefill_cloud.manage.errors import STRANGE, StrangeAnswerError

T = TypeVar("T")
P = ParamSpec("P")


class Mode:
    """How a client's methods come back."""


class Awaited(Mode):
    """As coroutines."""


class Blocking(Mode):
    """When they are done."""


M = TypeVar("M", bound=Mode)


class Way(Protocol):
    """What carries calls: the only difference between the two clients."""

    def run(self, call: Call[Any]) -> Any:
        """The answer, or a coroutine of it."""

    def rows(self, rows: Rows[Any]) -> Any:
        """The rows, iterated in the client's way."""


class Noun(Generic[M]):
    """What the verbs of one noun hang on."""

    def __init__(self, way: Way) -> None:
        self._way = way


class Verb(Generic[P, T]):
    """A method of a noun; `operation` is its operation id in the API's OpenAPI document."""

    def __init__(self, operation: str, build: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self.operation, self.build = operation, build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, noun: None, owner: type) -> Self: ...
    @overload
    def __get__(self, noun: Noun[Awaited], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, noun: Noun[Blocking], owner: type) -> Callable[P, T]: ...
    def __get__(self, noun: Noun[Any] | None, owner: type) -> Any:
        if noun is None:
            return self
        way = noun._way

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return way.run(self.build(noun, *args, **kwargs))

        return update_wrapper(method, self.build)


class ListVerb(Generic[P, T]):
    """A method of a noun that gives rows."""

    def __init__(self, operation: str, build: Callable[Concatenate[Any, P], Rows[T]]) -> None:
        self.operation, self.build = operation, build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, noun: None, owner: type) -> Self: ...
    @overload
    def __get__(self, noun: Noun[Awaited], owner: type) -> Callable[P, AsyncListing[T]]: ...
    @overload
    def __get__(self, noun: Noun[Blocking], owner: type) -> Callable[P, Listing[T]]: ...
    def __get__(self, noun: Noun[Any] | None, owner: type) -> Any:
        if noun is None:
            return self
        way = noun._way

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return way.rows(self.build(noun, *args, **kwargs))

        return update_wrapper(method, self.build)


def verb(
    operation: str,
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Verb[P, T]]:
    """Make a method of a function that builds a call."""

    def made(build: Callable[Concatenate[Any, P], Call[T]]) -> Verb[P, T]:
        return Verb(operation, build)

    return made


def list_verb(
    operation: str,
) -> Callable[[Callable[Concatenate[Any, P], Rows[T]]], ListVerb[P, T]]:
    """Make a method of a function that builds a list."""

    def made(build: Callable[Concatenate[Any, P], Rows[T]]) -> ListVerb[P, T]:
        return ListVerb(operation, build)

    return made


class AsyncListing(Generic[T]):
    """Rows by `async for`, fetched page by page; `page` gives one page and its cursor."""

    def __init__(
        self, rows: Rows[T], run: Callable[[Call[Page[T]]], Coroutine[Any, Any, Page[T]]]
    ) -> None:
        self._rows, self._run = rows, run

    async def page(self, cursor: str = "", limit: int = MAX_PAGE_ROWS) -> Page[T]:
        """One page; ask on with its `next_cursor` until that is empty."""
        return following(cursor, await self._run(self._rows.at(cursor, limit)))

    async def __aiter__(self) -> AsyncIterator[T]:
        cursor = ""
        while True:
            page = await self.page(cursor)
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return


class Listing(Generic[T]):
    """Rows by `for`, fetched page by page; `page` gives one page and its cursor."""

    def __init__(self, rows: Rows[T], run: Callable[[Call[Page[T]]], Page[T]]) -> None:
        self._rows, self._run = rows, run

    def page(self, cursor: str = "", limit: int = MAX_PAGE_ROWS) -> Page[T]:
        """One page; ask on with its `next_cursor` until that is empty."""
        return following(cursor, self._run(self._rows.at(cursor, limit)))

    def __iter__(self) -> Iterator[T]:
        cursor = ""
        while True:
            page = self.page(cursor)
            yield from page.items
            cursor = page.next_cursor
            if not cursor:
                return


def following(cursor: str, page: Page[T]) -> Page[T]:
    """The page, unless it leads back to where it was asked for: that would never end."""
    if cursor and page.next_cursor == cursor:
        raise StrangeAnswerError(STRANGE, "a page names itself as the next one")
    return page
