"""`prefill-cloud usage`: sums, receipts, and what became of each request."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import chosen
from prefill_stack.commands.options import since as time_before
from prefill_stack.commands.showing import as_rows, show_rows

if TYPE_CHECKING:
    from prefill_cloud.manage.usage import UsageFilter


usage = typer.Typer(help="Usage, receipts, requests.", no_args_is_help=True)

GroupBy = Annotated[
    list[str] | None,
    typer.Option(
        "--by", metavar="<column>", help="tenant, key, model, datacenter, hour, day, month; repeat."
    ),
]
KeyId = Annotated[str, typer.Option(help="Only of this key.")]
Model = Annotated[str, typer.Option(help="Only of this model.")]
Datacenter = Annotated[str, typer.Option(help="Only of this datacenter.")]
Since = Annotated[str, typer.Option(help="2030-01-31T00:00:00Z, or 7d ago.")]
Until = Annotated[str, typer.Option(help="Up to this time, which is excluded.")]
GROUPS = ("tenant", "key", "model", "datacenter", "hour", "day", "month")
SUMS = ("requests", "tokens", "cached_tokens", "state_bytes_sent", "amount_micros")
RECEIPTS = "receipt_id amount_micros token_count cached_tokens model datacenter finished_at"
REQUESTS = "request_id outcome at token_count model datacenter route_reason"


F = TypeVar("F", bound=Callable[..., None])


def narrowed(
    _desk: Desk,
    *,
    key_id: KeyId = "",
    model: Model = "",
    datacenter: Datacenter = "",
    since: Since = "",
    until: Until = "",
) -> "UsageFilter":
    """The filter of the options that every list here has."""
    return {
        "key_id": key_id,
        "model": model,
        "datacenter": datacenter,
        "since": time_before("--since", since),
        "until": time_before("--until", until),
    }


def filtered(function: F) -> Callable[..., None]:
    """A verb of a desk and a filter as one of a desk and the filter's options."""
    narrowing = list(inspect.signature(narrowed).parameters.values())[1:]
    own = list(inspect.signature(function).parameters.values())

    def asked(desk: Desk, **options: Any) -> None:
        only = narrowed(desk, **{each.name: options.pop(each.name) for each in narrowing})
        function(desk, only, **options)

    asked.__name__, asked.__doc__ = function.__name__, function.__doc__
    signature = inspect.Signature([own[0], *own[2:], *narrowing])
    asked.__signature__ = signature  # type: ignore[attr-defined]
    return asked


@verb(usage, "show", "list")
@filtered
def show(desk: Desk, only: "UsageFilter", *, by: GroupBy = None) -> None:
    """Sum usage by what --by names."""
    by = [chosen("--by", each, GROUPS) for each in by or ["tenant"]]
    items, cursor = desk.take(desk.client.usage.list(by, **only))
    if desk.as_json:
        desk.listed(items, cursor)
        return
    sums = zip(items, as_rows(items, SUMS), strict=True)
    show_rows([*by, *SUMS], [[*row.group.values(), *cells] for row, cells in sums])
    desk.tell_more(cursor)


@verb(usage, "receipts", "list")
@filtered
def receipts(desk: Desk, only: "UsageFilter") -> None:
    """List receipts, the latest finished first."""
    desk.rows(desk.client.usage.receipts(**only), RECEIPTS)


@verb(usage, "requests", "list")
@filtered
def requests(desk: Desk, only: "UsageFilter") -> None:
    """List requests with route and reason, the latest first."""
    desk.rows(desk.client.usage.requests(**only), REQUESTS)


@verb(usage, "request")
def request(desk: Desk, *, request_id: Annotated[str, typer.Argument(help="req_...")]) -> None:
    """Show what became of a request: route, reason, timeline."""
    desk.one(desk.client.usage.request(request_id))


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(usage, name="usage")
