"""What every verb of a management noun shares: how it reaches the API, and how it answers.

A verb is a function of a Desk and of its own options; `verb` adds the shared ones.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from prefill_stack.commands.access import CREDENTIAL_VARIABLE, ManagementAccess
from prefill_stack.commands.showing import as_document, as_rows, facts_table, show_rows, show_table
from prefill_stack.commands.up import DEFAULT_DIRECTORY
from prefill_stack.console import people, print_json
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from msgspec import Struct
    from prefill_cloud.manage import Account, ManagementClient
    from prefill_cloud.manage.verbs import Blocking, Listing

F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")
MOST_ROWS_A_PAGE = 200
TENANT_PREFIX = "ten_"

Directory = Annotated[Path, typer.Option(help="Where `up` left its access.")]
Url = Annotated[str, typer.Option(help="The management API, instead of the folder's.")]
Credential = Annotated[
    str,
    typer.Option(
        envvar=CREDENTIAL_VARIABLE,
        help="API key or session token; rather by the environment: arguments are seen by others.",
    ),
]
TlsRoots = Annotated[Path | None, typer.Option(help="PEM of the API's authority.")]
OfTenant = Annotated[str, typer.Option(help="On behalf of this tenant; for operators.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]
Limit = Annotated[int, typer.Option(min=1, help="Rows at most.")]
Cursor = Annotated[str, typer.Option(help="Go on where a list ended.")]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One call of a verb: its shared options, and the API behind them."""

    access: ManagementAccess
    tenant: str = ""
    as_json: bool = False
    yes: bool = False
    limit: int = 50
    cursor: str = ""
    opened: "list[ManagementClient]" = field(default_factory=list)

    @property
    def client(self) -> "Account[Blocking]":
        """The API, on behalf of `--tenant` when it is given."""
        if not self.opened:
            self.opened.append(self.access.open())
        client = self.opened[0]
        if self.tenant and not self.tenant.startswith(TENANT_PREFIX):
            raise NotConfigured(
                f"--tenant {self.tenant[:40]!r} is no account's id",
                f"ids begin with {TENANT_PREFIX}: `prefill-cloud tenants list` shows them",
            )
        return client.for_tenant(self.tenant) if self.tenant else client

    @property
    def account(self) -> str:
        """The id of the account that is meant: `--tenant`, or the credential's own."""
        if self.tenant:
            return self.tenant
        mine = self.client.tenants.list().page(limit=2).items
        if len(mine) == 1:
            return mine[0].id
        raise NotConfigured("an operator has many accounts before them", "give --tenant TENANT_ID")

    def confirm(self, what: str) -> None:
        """Ask before what cannot be taken back; refuse when nobody can be asked."""
        if self.yes:
            return
        try:
            agreed = not self.as_json and typer.confirm(f"{what}?", err=True)
        except typer.Abort:
            typer.echo(err=True)  # the question's line has no end yet
            agreed = None
        if agreed is None or self.as_json:
            raise NotConfigured(f"nobody agreed to: {what}", "give --yes to do it without asking")
        if not agreed:
            people(quiet=True).print("nothing was changed")
            raise typer.Exit(1)

    def one(self, view: "Struct", note: str = "") -> None:
        """Show one object, every field; `note` is for people."""
        if self.as_json:
            print_json(as_document(view))
            return
        show_table(facts_table(view))
        if note:
            people().print(note, soft_wrap=True, markup=False)

    def rows(self, listing: "Listing[Any]", columns: str, note: str = "") -> None:
        """Show up to `--limit` rows of a list, these columns for people, as `note` is."""
        items, cursor = self.take(listing)
        if self.as_json:
            self.listed(items, cursor)
            return
        show_rows(columns.split(), as_rows(items, columns.split()))
        if note:
            people().print(note, soft_wrap=True, markup=False)
        self.tell_more(cursor)

    def take(self, listing: "Listing[T]") -> "tuple[list[T], str]":
        """Up to `--limit` rows from `--cursor` on, and where to go on; empty at the end."""
        items: list[T] = []
        cursor = self.cursor
        while len(items) < self.limit:
            page = listing.page(cursor, min(self.limit - len(items), MOST_ROWS_A_PAGE))
            items += page.items
            cursor = page.next_cursor
            if not cursor:
                break
        return items, cursor

    def listed(self, items: "Sequence[Struct]", cursor: str) -> None:
        """Rows for a program."""
        print_json({"items": [as_document(item) for item in items], "next_cursor": cursor})

    def tell_more(self, cursor: str) -> None:
        """Say that there is more, and how to see it."""
        if cursor:
            people(quiet=True).print(f"more: --cursor {cursor}", soft_wrap=True, markup=False)

    def done(self, words: str) -> None:
        """Say that something is done that leaves nothing to show."""
        if self.as_json:
            print_json({"done": words})
        else:
            people().print(words, soft_wrap=True, markup=False)


@contextmanager
def open_desk(options: dict[str, Any]) -> Iterator[Desk]:
    """A desk of the shared options, taken out of all options; its client is closed at the end."""
    access = ManagementAccess(
        directory=options.pop("directory"),
        url=options.pop("url"),
        credential=options.pop("credential"),
        tls_roots=options.pop("tls_roots"),
    )
    named = ("tenant", "as_json", "yes", "limit", "cursor")
    desk = Desk(access=access, **{name: options.pop(name) for name in named if name in options})
    try:
        yield desk
    finally:
        for client in desk.opened:
            client.close()


def verb(app: typer.Typer, name: str, kind: str = "") -> Callable[[F], F]:
    """Register a function as a verb with the shared options; `kind`: list or destructive."""

    def register(function: F) -> F:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [*own, *_shared(kind)]

        def command(**options: Any) -> None:
            with open_desk(options) as desk:
                function(desk, **options)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        kinds = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.Signature([each.replace(kind=kinds) for each in parameters])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {}
        app.command(name)(command)
        return function

    return register


def _shared(kind: str) -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any]] = [
        ("tenant", OfTenant, ""),
        ("directory", Directory, DEFAULT_DIRECTORY),
        ("url", Url, ""),
        ("credential", Credential, ""),
        ("tls_roots", TlsRoots, None),
        ("as_json", AsJson, False),
    ]
    if kind == "list":
        options += [("limit", Limit, 50), ("cursor", Cursor, "")]
    if kind == "destructive":
        options += [("yes", Yes, False)]
    shape = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, shape, default=default, annotation=annotation)
        for name, annotation, default in options
    ]
