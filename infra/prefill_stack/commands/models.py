"""`prefill-cloud models inspect DIR`: what a checkpoint is, and what its state costs to move."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from prefill_stack.commands.catalogue import add_verbs
from prefill_stack.console import mebibytes, people, print_json, quiet_libraries

LENGTHS_TOKENS = (1_024, 16_384, 131_072, 1_048_576)


def describe(folder: Path, profile: str) -> dict[str, object]:
    """Identity, shape and state sizes of a checkpoint folder, without loading its weights."""
    from prefill_engine.identity import identify
    from prefill_engine.schema import state_schema

    identity = identify(folder)
    config = identity.config
    schema = state_schema(config, profile)
    # A state covers at least one token; sizes are linear in the tokens.
    per_token = schema.nbytes(2) - schema.nbytes(1)
    fixed = schema.nbytes(1) - per_token
    kinds: dict[str, int] = {}
    for layer in schema.layers:
        kinds[layer.kind.name.lower()] = kinds.get(layer.kind.name.lower(), 0) + 1
    shown = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    return {
        "name": identity.name,
        "fingerprint": _hex(identity.fingerprint),
        "tokenizer_fingerprint": _hex(identity.tokenizer_fingerprint),
        "numerics_profile": profile,
        "config": {name: config.get(name) for name in shown if name in config},
        "state_tensors": kinds,
        "state_bytes_per_token": per_token,
        "state_bytes_fixed": fixed,
        "state_bytes_at_tokens": {str(n): schema.nbytes(n) for n in LENGTHS_TOKENS},
    }


def _hex(value: bytes | str) -> str:
    return value.hex() if isinstance(value, bytes) else value


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
