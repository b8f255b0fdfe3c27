"""`prefill-cloud routes explain`: where a request would go, and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.showing import as_rows, show_rows
from prefill_stack.console import people

if TYPE_CHECKING:
    from prefill_cloud.manage.routes import Route

routes = typer.Typer(help="Where requests go.", no_args_is_help=True)


@verb(routes, "explain")
def explain(
    desk: Desk,
    *,
    model: Annotated[str, typer.Argument(help="The model's name.")],
    token_count: Annotated[int, typer.Argument(min=0, help="Tokens of the prompt.")],
    local_prefix_tokens: Annotated[int, typer.Option(min=0, help="Already held here.")] = 0,
    datacenter: Annotated[
        list[str] | None, typer.Option(metavar="<datacenter>", help="A wish; repeat.")
    ] = None,
    residency: Annotated[
        list[str] | None, typer.Option(metavar="<datacenter>", help="A hard rule; repeat.")
    ] = None,
) -> None:
    """Say where a request would go and why, step by step; nothing is reserved."""
    from prefill_cloud.manage import RouteRequest

    request = RouteRequest(
        model=model,
        token_count=token_count,
        local_prefix_tokens=local_prefix_tokens,
        datacenters=datacenter or (),
        residency=residency or (),
    )
    route = desk.client.routes.explain(request)
    if desk.as_json:
        desk.one(route)
        return
    _show(route)


def _show(route: "Route") -> None:
    columns = ["rule", "kept", "dropped", "reason"]
    show_rows(columns, as_rows(route.steps, columns))
    where = f"{route.outcome} {route.datacenter}".strip()
    people().print(f"{where}: {route.reason}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(routes, name="routes")
