"""`prefill-cloud bench NAME`: figures of this machine, by the command that the README names."""

from typing import Annotated

import typer
from rich.table import Table

from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured


def bench(
    name: Annotated[str, typer.Argument(help="Which bench; `list` names them.")] = "list",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure something on this machine and say on what hardware."""
    quiet_libraries()
    from prefill_stack import benches
    from prefill_stack.hardware import hardware

    known = benches.names()
    if name == "list":
        for each in known:
            typer.echo(each)
        return
    if name not in known:
        raise NotConfigured(f"no bench is called {name!r}", f"known: {', '.join(known)}")
    with people(quiet=as_json).status(f"bench {name}"):
        result = {"bench": name, "hardware": hardware(), **benches.load(name)()}
    if as_json:
        print_json(result)
        return
    table = Table(title=f"bench {name}", show_header=False)
    for key, value in result.items():
        table.add_row(key, str(value))
    people().print(table)


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(bench)
