"""`prefill-cloud usage`: sums, receipts, and what became of each request."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import since as time_before
from prefill_stack.commands.showing import rows_table, show_table, text_of

if TYPE_CHECKING:
    from prefill_cloud.manage.usage import UsageFilter, UsageRow

usage = typer.Typer(help="Usage, receipts, requests.", no_args_is_help=True)

GroupBy = Annotated[
    list[str] | None,
    typer.Option("--by", help="tenant, key, model, datacenter, hour, day, month; repeat."),
]
KeyId = Annotated[str, typer.Option(help="Only of this key.")]
Model = Annotated[str, typer.Option(help="Only of this model.")]
Datacenter = Annotated[str, typer.Option(help="Only of this datacenter.")]
Since = Annotated[str, typer.Option(help="2030-01-31T00:00:00Z, or 7d ago.")]
Until = Annotated[str, typer.Option(help="Up to this time, which is excluded.")]
SUMS = ("requests", "tokens", "cached_tokens", "state_bytes_sent", "amount_micros")
RECEIPTS = "receipt_id finished_at model datacenter token_count cached_tokens amount_micros"
REQUESTS = "request_id at model datacenter token_count outcome route_reason"


def narrowed(*, key_id: str, model: str, datacenter: str, since: str, until: str) -> "UsageFilter":
    """The filter of these options."""
    return {
        "key_id": key_id,
        "model": model,
        "datacenter": datacenter,
        "since": time_before(since),
        "until": time_before(until),
    }


@verb(usage, "show", "list")
def show(
    desk: Desk,
    *,
    by: GroupBy = None,
    key_id: KeyId = "",
    model: Model = "",
    datacenter: Datacenter = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """Sum usage by what --by names."""
    only = narrowed(key_id=key_id, model=model, datacenter=datacenter, since=since, until=until)
    items, cursor = desk.take(desk.client.usage.list(by or ["tenant"], **only))
    if desk.as_json:
        desk.listed(items, cursor)
        return
    show_table(rows_table([*(by or ["tenant"]), *SUMS], [_cells(row) for row in items]))
    desk.tell_more(cursor)


def _cells(row: "UsageRow") -> list[str]:
    return [*row.group.values(), *(text_of(name, getattr(row, name)) for name in SUMS)]


@verb(usage, "receipts", "list")
def receipts(
    desk: Desk,
    *,
    key_id: KeyId = "",
    model: Model = "",
    datacenter: Datacenter = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """List receipts, the latest finished first."""
    only = narrowed(key_id=key_id, model=model, datacenter=datacenter, since=since, until=until)
    desk.rows(desk.client.usage.receipts(**only), RECEIPTS)


@verb(usage, "requests", "list")
def requests(
    desk: Desk,
    *,
    key_id: KeyId = "",
    model: Model = "",
    datacenter: Datacenter = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """List requests with route and reason, the latest first."""
    only = narrowed(key_id=key_id, model=model, datacenter=datacenter, since=since, until=until)
    desk.rows(desk.client.usage.requests(**only), REQUESTS)


@verb(usage, "request")
def request(desk: Desk, *, request_id: Annotated[str, typer.Argument(help="req_...")]) -> None:
    """Show what became of a request: route, reason, timeline."""
    desk.one(desk.client.usage.request(request_id))


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(usage, name="usage")
