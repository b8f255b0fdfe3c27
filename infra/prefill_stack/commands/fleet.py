"""`prefill-cloud fleet`: workers, gateways and the links between datacenters, as they told last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import chosen
from prefill_stack.commands.showing import as_document, show_rows
from prefill_stack.console import mebibytes, print_json

if TYPE_CHECKING:
    from prefill_cloud.manage.fleet import FleetProcess

fleet = typer.Typer(help="Workers, gateways, links.", no_args_is_help=True)

Role = Annotated[str, typer.Option(help="worker or gateway.")]
Datacenter = Annotated[str, typer.Option(help="Only there.")]
GIB = 2**30
ROLES = ("worker", "gateway")
COLUMNS = ("role", "name", "datacenter", "state", "silent", "version", "in flight", "memory",
           "models or workers")  # fmt: skip
LINK_COLUMNS = ("from", "to", "state", "round trip", "Mbit/s")


@verb(fleet, "list", "list")
def list_all(desk: Desk, *, role: Role = "", datacenter: Datacenter = "") -> None:
    """List workers and gateways with their load, memory and version."""
    role = chosen("--role", role, ROLES)
    items, cursor = desk.take(desk.client.fleet.list(role=role, datacenter=datacenter))
    if desk.as_json:
        desk.listed(items, cursor)
        return
    show_rows(COLUMNS, [process_cells(process) for process in items])
    desk.tell_more(cursor)


@verb(fleet, "links", "list")
def links(desk: Desk, *, datacenter: Datacenter = "") -> None:
    """List what gateways measured of the ways to other datacenters."""
    items, cursor = desk.take(desk.client.fleet.list(role="gateway", datacenter=datacenter))
    if desk.as_json:
        found = [
            {"gateway": process.name, "from": process.datacenter, **as_document(link)}
            for process in items
            for link in process.links
        ]
        print_json({"items": found, "next_cursor": cursor})
        return
    show_rows(LINK_COLUMNS, link_cells(items))
    desk.tell_more(cursor)


def process_cells(process: "FleetProcess") -> list[str]:
    """One row about a worker or gateway."""
    used, cap = process.memory_used_bytes, process.memory_cap_bytes
    memory = mebibytes(used) + (f" of {mebibytes(cap)}" if cap else "")
    if cap >= GIB:
        memory = f"{used / GIB:.2f} of {cap / GIB:.2f} GiB"
    serves = ", ".join(process.models) or f"{process.live_workers} live"
    return [
        process.role,
        process.name,
        process.datacenter,
        process.state,
        f"{process.silent_ms:,} ms",
        process.version,
        f"{process.attempts_in_flight:,}",
        memory,
        serves,
    ]


def link_cells(gateways: "Sequence[FleetProcess]") -> list[list[str]]:
    """One row for every link that a gateway told of."""
    return [
        [
            gateway.datacenter,
            link.to,
            "live" if link.live else "down",
            f"{link.rtt_ms:.1f} ms",
            f"{link.mbps:,.0f}" if link.mbps else "not measured",
        ]
        for gateway in gateways
        for link in gateway.links
    ]


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(fleet, name="fleet")
