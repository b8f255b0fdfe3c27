"""The `prefill-cloud` command: every mistake of the user is one clear line and what to do."""

import importlib
import importlib.util
import os
import platform
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from prefill_stack.commands import (
    audit,
    bench,
    datacenters,
    demo,
    fleet,
    generate,
    keys,
    limits,
    models,
    prices,
    routes,
    tenants,
    up,
    usage,
)
from prefill_stack.commands.wrong_values import Commands
from prefill_stack.console import print_json
from prefill_stack.errors import Complaint, NotConfigured, complaint

MANAGEMENT = (tenants, keys, limits, datacenters, prices, routes, usage, audit, fleet)
BUG_EXIT_CODE = 70  # EX_SOFTWARE
WRONG_USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
HELP_SHOWN = "NoArgsIsHelpError"  # a noun without a verb; this class has no public name
UNANSWERED_REMEDY = "answer on a terminal, or set the environment variable that --help names"
OPTIONAL_COMMANDS = ("prefill_stack.plan", "prefill_stack.profile")

app = typer.Typer(
    name="prefill-cloud",
    cls=Commands,
    help="Prefill long prompts in a cloud, decode them locally, token for token.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the versions of the platform, Python and the libraries that decide results."""
    names = ("prefill-cloud-platform", "torch", "transformers", "numpy", "grpcio", "cryptography")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if as_json:
        print_json(versions)
        return
    for name, value in versions.items():
        typer.echo(f"{name:24} {value}")


def register_commands() -> None:
    """Give every command to the application; optional rooms only when they are installed."""
    for module in (up, generate, models, *MANAGEMENT, bench, demo):
        module.register(app)
    for name in OPTIONAL_COMMANDS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).register(app)


register_commands()


def report(error: Exception, *, as_json: bool = False) -> int:
    """Tell an error on stderr, for a person or a program; return the exit code. A bug shows its
    trace on request."""
    known = complaint(error)
    if known is None:
        words = f"{type(error).__name__}: {error}"
        known = Complaint(words, "this is a bug of ours; PREFILL_DEBUG=1 shows the trace",
                          BUG_EXIT_CODE)  # fmt: skip
    if as_json:
        print_json({"error": known.document()}, sys.stderr)
        return known.exit_code
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    kind = "internal error" if known.exit_code == BUG_EXIT_CODE else "error"
    console.print(f"[bold red]{kind}:[/] {escape(known.message)}")
    console.print(f"       {escape(known.remedy)}")
    return known.exit_code


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code. Wrong usage is a line and a remedy as all mistakes."""
    as_json = "--json" in arguments
    try:
        done = app(arguments, prog_name="prefill-cloud", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except typer.Abort:
        unanswered = NotConfigured("nothing was entered", UNANSWERED_REMEDY)
        return report(unanswered, as_json=as_json)
    except Exception as error:
        if type(error).__name__ == HELP_SHOWN:
            return WRONG_USAGE_EXIT_CODE
        if os.environ.get("PREFILL_DEBUG"):
            raise
        return report(error, as_json=as_json)
    return done if isinstance(done, int) else 0


def main() -> None:
    """Entry point of the `prefill-cloud` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
