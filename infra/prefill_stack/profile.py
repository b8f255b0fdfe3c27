"""`prefill-cloud profile`: measure a live worker, and write what the planner reads.

Prefill seconds and state bytes come from the worker's own signed receipts and its real states; the
decode step from an engine of the same checkpoint here, because a worker does not decode.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from prefill_stack.commands.access import Access
from prefill_stack.commands.generate import ApiKey
from prefill_stack.commands.up import DEFAULT_DIRECTORY
from prefill_stack.console import mebibytes, people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured, StackError
from prefill_stack.profiling import (
    DECODE_CONTEXT_TOKENS,
    Protocol,
    lengths_up_to,
    measure,
    measure_decode,
    whole_numbers,
)

if TYPE_CHECKING:
    from prefill_data.planner.measured import Measured
    from prefill_engine.engine import StepEngine


def words(machine: dict[str, object]) -> str:
    """A machine as a phrase."""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"


def describe(engine: "StepEngine", protocol: Protocol, options: dict[str, Any]) -> "Measured":
    """Name, machine and method of a profile, in words."""
    from prefill_data.planner.measured import Measured

    from prefill_stack.hardware import hardware

    return Measured(
        model=f"{engine.identity.name} ({engine.profile})",
        hardware=options.pop("hardware") or words(hardware()),
        source=(
            f"Measured by `prefill-cloud profile`: medians of {protocol.repeats} prefills a length "
            f"of random prompts, seconds and bytes from the worker's signed receipts; decode steps "
            f"by this platform's engine on {words(hardware())}, {protocol.decode_steps} steps a "
            f"batch behind {DECODE_CONTEXT_TOKENS:,} tokens."
        ),
        **options,
    )


def summary(document: dict[str, Any]) -> Table:
    """The profile for people: a line a length."""
    states = document["state"]
    table = Table(title=f"{document['name']}: {document['model']} on {document['hardware']}")
    for column in ("tokens", "prefill s", "tokens/s", *(f"state {name}" for name in states)):
        table.add_column(column, justify="right")
    for row, (tokens, seconds) in enumerate(document["prefill"]["points"]):
        sizes = (mebibytes(int(curve["points"][row][1])) for curve in states.values())
        table.add_row(f"{tokens:,}", f"{seconds:.3f}", f"{tokens / seconds:,.0f}", *sizes)
    steps = ", ".join(f"{batch}: {seconds * 1000:.2f} ms" for batch, seconds in document["decode"])
    table.caption = f"decode step by batch: {steps}"
    return table


def profile(  # noqa: PLR0913 (a command's parameters are its options)
    into: Annotated[Path | None, typer.Option(help="Write the profile here (YAML).")] = None,
    name: Annotated[str, typer.Option(help="How plans call it.")] = "measured",
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the shipped code LM.")] = None,
    numerics: Annotated[str, typer.Option(help="fp32 or bf16-cache, as served.")] = "fp32",
    lengths: Annotated[
        str | None, typer.Option(help="Prompt lengths, e.g. 256,1024,4096 (default: 5 of them).")
    ] = None,
    longest: Annotated[int, typer.Option(min=2, help="Longest length without --lengths.")] = 8192,
    repeats: Annotated[int, typer.Option(min=1, help="Prefills a length.")] = 3,
    batches: Annotated[str, typer.Option(help="Decode batches.")] = "1,2,4,8",
    seed: Annotated[int, typer.Option(help="Of the random prompts.")] = 1,
    hardware: Annotated[str, typer.Option(help="What the worker runs on.")] = "",
    gpus_per_instance: Annotated[int, typer.Option(min=1)] = 1,
    price_micros_per_gpu_hour: Annotated[int | None, typer.Option(min=0)] = None,
    directory: Annotated[Path, typer.Option(help="Where `up` left its access.")] = (
        DEFAULT_DIRECTORY
    ),
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of a gateway.")] = None,
    api_key: ApiKey = None,
    control_key: Annotated[str | None, typer.Option(help="Control public key, hex.")] = None,
    tls_roots: Annotated[Path | None, typer.Option(help="Root certificates, PEM.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a live worker's prefill, states and decode step into a planner's profile."""
    credentials = Access(directory, endpoint, api_key, control_key, tls_roots).credentials()
    asked = whole_numbers("--lengths", lengths) if lengths else lengths_up_to(longest)
    protocol = Protocol(asked, repeats, whole_numbers("--batches", batches), seed=seed)
    if into is not None and not into.parent.is_dir():
        raise NotConfigured(f"--into: no folder {str(into.parent)!r}", "make it first")
    quiet_libraries()
    from prefill_data.planner.measured import profile_document
    from prefill_engine.engine import StepEngine

    from prefill_stack import shipped

    folder = checkpoint or shipped.checkpoint(shipped.CODE_LM)
    console = people(quiet=True)
    with console.status(f"measuring {len(asked)} lengths up to {asked[-1]:,} tokens"):
        engine = StepEngine.load(folder, profile=numerics)
        prefills = asyncio.run(measure(credentials, engine, protocol))
        decodes = measure_decode(engine, protocol)
    options = {
        "name": name,
        "hardware": hardware,
        "gpus_per_instance": gpus_per_instance,
        "price_micros_per_gpu_hour": price_micros_per_gpu_hour,
    }
    document = profile_document(describe(engine, protocol, options), prefills, decodes)
    if into is not None:
        write(into, document)
    if as_json:
        print_json(document)
        return
    people().print(summary(document))
    if into is not None:
        people().print(f"Written to {into}; name it as `profile:` of a cluster in a plan file.")


def write(path: Path, document: dict[str, Any]) -> None:
    """The profile as YAML, keys in their order."""
    import yaml

    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StackError(f"--into {path}: {error.strerror}", "name a file you may write") from error


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(profile)
