"""`prefill-cloud models inspect DIR`: what a checkpoint is, and what its state costs to move."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from prefill_stack.commands.catalogue import add_verbs
from prefill_stack.console import mebibytes, people, print_json, quiet_libraries
from prefill_stack.model_facts import describe


def inspect(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face checkpoint folder.")],
    profile: Annotated[str, typer.Option(help="Numerics profile.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a checkpoint's identity, configuration and state bytes per token."""
    quiet_libraries()
    facts = describe(folder, profile)
    if as_json:
        print_json(facts)
        return
    table = Table(title=str(facts["name"]), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a fingerprint is there to be compared, so none is cut
    for name, value in facts.items():
        if isinstance(value, dict):
            sized = name == "state_bytes_at_tokens"
            text = "\n".join(f"{k}: {mebibytes(v) if sized else v}" for k, v in value.items())
        else:
            text = str(value)
        table.add_row(name.replace("_", " "), text)
    people().print(table)


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    models = typer.Typer(help="Checkpoints, and the catalogue of models.", no_args_is_help=True)
    models.command()(inspect)
    add_verbs(models)
    app.add_typer(models, name="models")
