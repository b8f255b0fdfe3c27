"""`prefill-cloud bench NAME`: figures of this machine, by the command that the README names."""

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from prefill_stack.commands.up import stop_on_terminate
from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured


def bench(
    name: Annotated[str, typer.Argument(help="Which bench; `list` names them.")] = "list",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="cpu; `prefill` has a side on cuda too.")] = "cpu",
) -> None:
    """Measure something on this machine and say on what hardware."""
    quiet_libraries()
    from prefill_stack import benches
    from prefill_stack.hardware import hardware

    known = benches.names()
    if name == "list":
        told = {each: benches.measures(each) for each in known}
        if as_json:
            print_json({"benches": told})
            return
        for each, words in told.items():
            typer.echo(f"{each:10} {words}")
        return
    if name not in known:
        raise NotConfigured(f"no bench is called {name!r}", f"known: {', '.join(known)}")
    stop_on_terminate()
    with people(quiet=as_json).status(f"bench {name}"):
        result = {"bench": name, "hardware": hardware(), **_measure(name, device)()}
    if as_json:
        print_json(result)
        return
    table = Table(title=f"bench {name}", show_header=False)
    for key, value in result.items():
        table.add_row(key, str(value))
    people().print(table)


def _measure(name: str, device: str) -> Callable[[], dict[str, object]]:
    """What runs this bench on this device; a device that is not there is refused before."""
    from prefill_stack import benches

    if device == "cpu":
        return benches.load(name)
    if (name, device) != ("prefill", "cuda"):
        raise NotConfigured(
            f"bench {name} does not run on {device}", "prefill does on cuda, all on cpu"
        )
    from prefill_stack.benches.prefill import run_cuda

    return run_cuda


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(bench)
