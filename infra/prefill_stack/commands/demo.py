"""`prefill-cloud demo`: see it work, in one command."""

import time
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table

from prefill_stack.commands.up import stop_on_terminate
from prefill_stack.console import people, print_json, quiet_libraries


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prefill a real long prompt in one process, decode it in another, and compare every token."""
    quiet_libraries()
    console = people(quiet=as_json)
    started = time.perf_counter()
    stop_on_terminate()
    with console.status("starting a platform with one datacenter, and a small cloud") as status:
        from prefill_stack.demo.run import run_demo

        def say(line: str) -> None:
            console.print(f"{time.perf_counter() - started:5.1f} s  {line}")
            status.update("playing")

        result = run_demo(say)
    if as_json:
        print_json(result.document())
    else:
        table = Table(title="What the demo found", show_header=False)
        for name, value in result.document().items():
            table.add_row(name.replace("_", " "), _shown(value))
        console.print(table)
    broken = result.broken_promises()
    for promise in broken:
        console.print(f"[bold red]not as promised:[/] {promise}")
    if broken:
        raise typer.Exit(1)
    console.print("every token equals plain transformers, computed in a third process")


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(demo)


def _shown(value: object) -> str:
    """For people: four digits that count, thousands apart, yes or no."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
