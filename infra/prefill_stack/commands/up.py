"""`prefill-cloud up`: a cloud on this machine until Ctrl-C."""

import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import ProcessFailed
from prefill_stack.up_checks import (
    ANY_PORT,
    check_models,
    check_platform,
    check_services,
    parse_checkpoints,
    parse_tenants,
    with_tls,
)

if TYPE_CHECKING:
    from prefill_stack.local_cloud import CloudPlan, LocalCloud
    from prefill_stack.platform.plan import PlatformPlan
    from prefill_stack.supervisor import Supervisor

DEFAULT_DIRECTORY = Path(".prefill")


def stop_on_terminate() -> None:
    """SIGTERM ends a command as Ctrl-C does: children are stopped in order, their data removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<name=folder>", help="NAME=FOLDER of a checkpoint (default: the shipped); repeat."
    ),
]
Small = Annotated[bool, typer.Option("--small", help="Worker and gateway alone, keys from a file.")]
Listen = Annotated[str, typer.Option(help="With --small: the gateway's HOST:PORT.")]
ApiListen = Annotated[
    str, typer.Option(help="HOST:PORT of the REST API, on loopback; port 0: a free one.")
]
DatabaseUrl = Annotated[
    str, typer.Option(envvar="PREFILL_ADMIN_DATABASE_URL", help="PostgreSQL instead of ours.")
]
RedisUrl = Annotated[str, typer.Option(envvar="PREFILL_REDIS_URL", help="Redis instead of ours.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Workers in each datacenter.")]
WithTls = Annotated[
    bool | None, typer.Option(help="With --small: TLS; an authority is made. Needed off loopback.")
]
TlsHosts = Annotated[
    list[str] | None,
    typer.Option(metavar="<host>", help="With --small: names that others reach this machine by."),
]
Profile = Annotated[str, typer.Option(help="Numerics profile: fp32 or bf16-cache.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option(metavar="<tenant>", help="A tenant that gets a key (default: demo); repeat."),
]
Directory = Annotated[Path, typer.Option(help="Data, keys, logs, spools.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the access as JSON.")]


def up(
    checkpoint: Checkpoints = None,
    small: Small = False,
    listen: Listen = ANY_PORT,
    api_listen: ApiListen = ANY_PORT,
    database_url: DatabaseUrl = "",
    redis_url: RedisUrl = "",
    workers: Workers = 1,
    tls: WithTls = None,
    tls_host: TlsHosts = None,
    profile: Profile = "fp32",
    tenant: Tenants = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: AsJson = False,
) -> None:
    """Run the platform on this machine until Ctrl-C: services, control plane, two datacenters."""
    quiet_libraries()
    from prefill_stack.local_cloud import CloudPlan
    from prefill_stack.platform.plan import PlatformPlan

    stop_on_terminate()
    checkpoints, tenants = parse_checkpoints(checkpoint or []), parse_tenants(tenant or [])
    check_models(checkpoints, profile)
    if not small:
        check_platform(api_listen, listen, tls, tls_host or [])
        check_services(database_url, redis_url)
        run_platform(
            PlatformPlan(
                directory=directory.resolve(),
                checkpoints=checkpoints,
                tenants=tenants,
                workers=workers,
                profile=profile,
                api_listen=api_listen,
                database_url=database_url,
                redis_url=redis_url,
            ),
            as_json=as_json,
        )
        return
    run_small(
        CloudPlan(
            directory=directory.resolve(),
            checkpoints=checkpoints,
            tenants=tenants,
            listen=listen,
            profile=profile,
            workers=workers,
            tls=with_tls(listen, tls),
            tls_hosts=tuple(tls_host or []),
        ),
        as_json=as_json,
    )


def run_platform(plan: "PlatformPlan", *, as_json: bool) -> None:
    """Everything until Ctrl-C; what dies is started again."""
    from prefill_stack.platform.keeper import Keeper
    from prefill_stack.platform.run import PlatformStart
    from prefill_stack.platform.show import access_document, save_access, status_table
    from prefill_stack.supervisor import Supervisor
    from prefill_stack.up_folder import CLOUD_FILE, held

    console = people(quiet=as_json)
    keeper = Keeper(say=console.print)
    with held(plan.directory), Supervisor() as supervisor:
        try:
            with console.status("starting services, control plane and datacenters"):
                platform = PlatformStart(plan, keeper, supervisor).run()
            save_access(platform)
            if as_json:
                print_json(access_document(platform, keeper))
            else:
                status_table(console, platform, keeper)
                show_what_next(console, plan.directory)
            keeper.keep()
            signal.pause()
        except KeyboardInterrupt:
            console.print("stopping")
        finally:
            keeper.stop()
            (plan.directory / CLOUD_FILE).unlink(missing_ok=True)


def run_small(plan: "CloudPlan", *, as_json: bool) -> None:
    """Workers and a gateway until Ctrl-C or until one of them dies."""
    from prefill_stack.local_cloud import save_credentials, start_cloud
    from prefill_stack.supervisor import Supervisor
    from prefill_stack.up_folder import held

    console = people(quiet=as_json)
    with held(plan.directory), Supervisor() as supervisor:
        with console.status(f"starting {plan.workers} worker(s) and a gateway"):
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
    console.print(f"endpoint            {cloud.endpoint}", soft_wrap=True)
    for key in cloud.keys:
        console.print(f"API key ({key.tenant})      {key.secret}", soft_wrap=True)
    console.print(f"control public key  {cloud.control_public_key.hex()}", soft_wrap=True)
    if cloud.plan.tls:
        console.print(
            f"TLS authority       {cloud.plan.directory / 'tls' / 'ca.pem'}", soft_wrap=True
        )
    show_what_next(console, cloud.plan.directory)


def show_what_next(console: Console, directory: Path) -> None:
    """A command that finds this cloud from here, and what is long enough to go through it."""
    elsewhere = directory != DEFAULT_DIRECTORY.resolve()
    command = "prefill-cloud generate --file LONG.py" + (
        f" --directory {shlex.quote(str(directory))}" if elsewhere else ""
    )
    console.print(f"try it: {command}", style="bold", soft_wrap=True, markup=False)
    console.print("        a short prompt is prefilled here, not in the cloud; Ctrl-C stops")


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(up)
