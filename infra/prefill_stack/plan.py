"""`prefill-cloud plan`: the best fleet for a plan file, as a table, JSON or a picture."""

from pathlib import Path
from typing import Annotated

import typer

from prefill_stack.console import people, print_json
from prefill_stack.errors import NotConfigured
from prefill_stack.plan_tables import show


def plan(
    file: Annotated[Path | None, typer.Argument(help="A plan file (YAML).")] = None,
    case: Annotated[
        str | None, typer.Option(help="A shipped plan: paper, startup or enterprise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Write OUT.png or OUT.html.")
    ] = None,
) -> None:
    """Say how many machines of what kind, behind which link, at which threshold."""
    from prefill_data.planner.answers import Title, answer
    from prefill_data.planner.loading import load_case, load_plan
    from prefill_data.planner.report import document

    if (file is None) == (case is None):
        raise NotConfigured("give a plan file or --case, one of them", "try --case paper")
    if picture is not None:
        from prefill_data.planner.plot import check_target

        check_target(picture)  # before the work, not after it
    source, scenario = load_plan(file) if file is not None else load_case(str(case))
    found = answer(scenario, Title(source.name, source.currency))
    result = document(found)
    if picture is not None:
        from prefill_data.planner.plot import plot

        plot(found, picture)
    if as_json:
        print_json(result)
    else:
        show(people(), result)


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(plan)
