"""`prefill-cloud up`: a cloud on this machine until Ctrl-C."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured, ProcessFailed

if TYPE_CHECKING:
    from prefill_stack.local_cloud import LocalCloud
    from prefill_stack.supervisor import Supervisor

DEFAULT_DIRECTORY = Path(".prefill")


def parse_checkpoints(options: list[str]) -> dict[str, Path]:
    """NAME=FOLDER options as a mapping; the shipped models when there are none."""
    from prefill_stack import shipped

    if not options:
        return {name: shipped.checkpoint(name) for name in (shipped.CODE_LM, shipped.MQAR)}
    pairs = {}
    for option in options:
        name, separator, folder = option.partition("=")
        if not (name and separator and folder):
            raise NotConfigured(
                f"--checkpoint {option!r} is not NAME=FOLDER",
                "example: --checkpoint my-model=./dir",
            )
        pairs[name] = Path(folder).resolve()
    return pairs


def with_tls(listen: str, wish: bool | None) -> bool:
    """Off only on loopback: whoever else could listen in must not read prompts."""
    host = listen.rpartition(":")[0].strip("[]")
    loopback = host == "localhost" or host.startswith("127.") or host == "::1"
    if not loopback and wish is False:
        raise NotConfigured(
            f"--no-tls goes with a loopback address, and {listen} is none",
            "leave --no-tls out, or listen on 127.0.0.1",
        )
    return not loopback if wish is None else wish


def stop_on_terminate() -> None:
    """SIGTERM ends `up` the way Ctrl-C does, so that children are stopped in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def up(
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a checkpoint (default: the shipped).")
    ] = None,
    listen: Annotated[str, typer.Option(help="Gateway HOST:PORT; port 0: a free one.")] = (
        "127.0.0.1:0"
    ),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    tls: Annotated[
        bool | None, typer.Option(help="TLS with an authority of its own; needed off loopback.")
    ] = None,
    tls_host: Annotated[
        list[str] | None, typer.Option(help="Names that others reach this machine by.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Numerics profile: fp32 or bf16-cache.")] = "fp32",
    tenant: Annotated[list[str] | None, typer.Option(help="Tenants that get a key.")] = None,
    directory: Annotated[Path, typer.Option(help="Keys, logs, spool.")] = DEFAULT_DIRECTORY,
    as_json: Annotated[bool, typer.Option("--json", help="Print the access as JSON.")] = False,
) -> None:
    """Run worker(s) and a gateway on this machine until Ctrl-C."""
    quiet_libraries()
    from prefill_stack.local_cloud import CloudPlan, save_credentials, start_cloud
    from prefill_stack.supervisor import Supervisor

    plan = CloudPlan(
        directory=directory.resolve(),
        checkpoints=parse_checkpoints(checkpoint or []),
        tenants=tuple(tenant or ["demo"]),
        listen=listen,
        profile=profile,
        workers=workers,
        tls=with_tls(listen, tls),
        tls_hosts=tuple(tls_host or []),
    )
    console = people(quiet=as_json)
    stop_on_terminate()
    with Supervisor() as supervisor:
        with console.status(f"starting {workers} worker(s) and a gateway"):
            cloud = start_cloud(supervisor, plan)
        path = save_credentials(cloud)
        try:
            if as_json:
                print_json({**_access(cloud), "processes": _processes(supervisor)})
            else:
                _show(cloud, supervisor)
            dead = supervisor.wait()
            raise ProcessFailed(
                f"{dead.plan.name} stopped with exit code {dead.process.returncode}",
                f"its whole log is in {dead.plan.log_path}",
            )
        except KeyboardInterrupt:
            console.print("stopping")
        finally:
            path.unlink(missing_ok=True)


def _access(cloud: "LocalCloud") -> dict[str, object]:
    return {
        "endpoint": cloud.endpoint,
        "api_keys": {key.tenant: key.secret for key in cloud.keys},
        "control_public_key": cloud.control_public_key.hex(),
        "tls_roots": str(cloud.plan.directory / "tls" / "ca.pem") if cloud.plan.tls else None,
    }


def _processes(supervisor: "Supervisor") -> dict[str, int]:
    return {child.plan.name: child.process.pid for child in supervisor.children}


def _show(cloud: "LocalCloud", supervisor: "Supervisor") -> None:
    table = Table(title="Prefill Cloud on this machine")
    for column in ("process", "pid", "grpc", "data", "metrics"):
        table.add_column(column)
    for child in supervisor.children:
        said = child.ready
        cells = [str(said.get(name, "-")) for name in ("grpc", "data", "metrics")]
        table.add_row(child.plan.name, str(child.process.pid), *cells)
    console = people()
    console.print(table)
    console.print(f"endpoint            {cloud.endpoint}")
    for key in cloud.keys:
        console.print(f"API key ({key.tenant})      {key.secret}")
    console.print(f"control public key  {cloud.control_public_key.hex()}")
    if cloud.plan.tls:
        console.print(f"TLS authority       {cloud.plan.directory / 'tls' / 'ca.pem'}")
    console.print('try it: [bold]prefill-cloud generate "def main():"[/]   Ctrl-C stops')


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(up)
