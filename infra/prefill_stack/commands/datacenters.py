"""`prefill-cloud datacenters`: the catalogue, an account's wish and its rule of residency."""

from typing import Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import counts, kept

datacenters = typer.Typer(help="Datacenters, wishes, residency.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The datacenter's name.")]
Jurisdiction = Annotated[str | None, typer.Option(help="EU, US, ...")]
Endpoint = Annotated[str | None, typer.Option(help="HOST:PORT of its gateway.")]
Place = Annotated[str | None, typer.Option(help="Where it is, in words.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="<model>", help="Served there; repeat.")
]
Accelerators = Annotated[
    list[str] | None,
    typer.Option("--accelerator", metavar="<kind=count>", help="KIND=COUNT; repeat."),
]
Rtt = Annotated[int | None, typer.Option(min=0, help="Round trip, milliseconds.")]
Egress = Annotated[int | None, typer.Option(min=1, help="Megabits per second.")]
Wishes = Annotated[
    list[str] | None, typer.Option("--wish", metavar="<datacenter>", help="In this order; repeat.")
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", metavar="<datacenter>", help="Only these; repeat.")
]
Deny = Annotated[
    list[str] | None, typer.Option("--deny", metavar="<datacenter>", help="Never these; repeat.")
]
MaxPrice = Annotated[
    int | None,
    typer.Option("--max-price-micros", help="Per million tokens at most; -1: any."),
]
MaxLatency = Annotated[int | None, typer.Option(help="Added milliseconds at most; -1: any.")]
Fallback = Annotated[bool | None, typer.Option("--fallback/--no-fallback", help="Others, too.")]
SHOWN = "name jurisdiction state endpoint models rtt_ms egress_mbps"


@verb(datacenters, "create")
def create(
    desk: Desk,
    *,
    name: Name,
    jurisdiction: Annotated[str, typer.Option(help="EU, US, ...")],
    endpoint: Annotated[str, typer.Option(help="HOST:PORT of its gateway.")],
    place: Annotated[str, typer.Option(help="Where it is, in words.")] = "",
    model: Models = None,
    accelerator: Accelerators = None,
    rtt_ms: Annotated[int, typer.Option(min=0, help="Round trip, milliseconds.")] = 0,
    egress_mbps: Annotated[int, typer.Option(min=1, help="Megabits per second.")] = 10_000,
) -> None:
    """Add a datacenter; it is active at once."""
    from prefill_cloud.manage import DatacenterValues

    values = DatacenterValues(
        jurisdiction=jurisdiction,
        endpoint=endpoint,
        place=place,
        models=model or (),
        accelerators=counts(accelerator),
        rtt_ms=rtt_ms,
        egress_mbps=egress_mbps,
    )
    desk.one(desk.client.datacenters.create(name, values))


@verb(datacenters, "list", "list")
def list_all(
    desk: Desk, *, jurisdiction: Annotated[str, typer.Option(help="Only in this one.")] = ""
) -> None:
    """List datacenters."""
    desk.rows(desk.client.datacenters.list(jurisdiction=jurisdiction), SHOWN)


@verb(datacenters, "show")
def show(desk: Desk, *, name: Name) -> None:
    """Show a datacenter."""
    desk.one(desk.client.datacenters.read(name))


@verb(datacenters, "update")
def update(
    desk: Desk,
    *,
    name: Name,
    jurisdiction: Jurisdiction = None,
    endpoint: Endpoint = None,
    place: Place = None,
    model: Models = None,
    accelerator: Accelerators = None,
    rtt_ms: Rtt = None,
    egress_mbps: Egress = None,
) -> None:
    """Change what is named; an empty --model or --accelerator clears the list."""
    import msgspec

    now = desk.client.datacenters.read(name)
    named = [entry for entry in accelerator or () if entry]
    given = {
        "jurisdiction": jurisdiction,
        "endpoint": endpoint,
        "place": place,
        "models": kept(model, now.models),
        "accelerators": counts(named) if accelerator else None,
        "rtt_ms": rtt_ms,
        "egress_mbps": egress_mbps,
    }
    chosen = {field: value for field, value in given.items() if value is not None}
    values = msgspec.structs.replace(now.values(), **chosen)
    desk.one(desk.client.datacenters.update(name, values, version=now.version))


@verb(datacenters, "cordon")
def cordon(desk: Desk, *, name: Name) -> None:
    """Take no new requests; what runs ends as it would."""
    desk.one(desk.client.datacenters.cordon(name))


@verb(datacenters, "uncordon")
def uncordon(desk: Desk, *, name: Name) -> None:
    """Take new requests again."""
    desk.one(desk.client.datacenters.uncordon(name))


@verb(datacenters, "drain", "destructive")
def drain(desk: Desk, *, name: Name) -> None:
    """Take no new requests and give up caches, before maintenance."""
    desk.confirm(f"drain {name}, whose caches are then given up")
    desk.one(desk.client.datacenters.drain(name))


@verb(datacenters, "undrain")
def undrain(desk: Desk, *, name: Name) -> None:
    """Back to work after draining."""
    desk.one(desk.client.datacenters.undrain(name))


@verb(datacenters, "preference")
def preference(
    desk: Desk,
    *,
    wish: Wishes = None,
    allow: Allow = None,
    deny: Deny = None,
    max_price: MaxPrice = None,
    max_added_latency_ms: MaxLatency = None,
    fallback: Fallback = None,
) -> None:
    """Show the account's wish, or change what is named; an empty value clears a list."""
    import msgspec

    account = desk.account
    now = desk.client.preferences.read(account)
    given = {
        "wishes": kept(wish, ()) if wish else None,
        "allow": kept(allow, ()) if allow else None,
        "deny": kept(deny, ()) if deny else None,
        "max_price_micros": max_price,
        "max_added_latency_ms": max_added_latency_ms,
        "fallback": fallback,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        desk.one(now)
        return
    lifted = {name: None for name, value in chosen.items() if value == -1}
    values = msgspec.structs.replace(now.values(), **{**chosen, **lifted})
    desk.one(desk.client.preferences.put(account, values, version=now.version))


@verb(datacenters, "residency", "destructive")
def residency(
    desk: Desk,
    *,
    jurisdiction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<jurisdiction>", help="Nothing may leave these; empty: no rule; repeat."
        ),
    ] = None,
) -> None:
    """Show the account's hard rule, or replace it."""
    account = desk.account
    now = desk.client.residency.read(account)
    if not jurisdiction:
        desk.one(now)
        return
    rule = kept(jurisdiction, ())
    if set(now.jurisdictions) - set(rule) and not rule:
        desk.confirm("lift the rule, so that requests may go anywhere")
    elif now.jurisdictions and set(rule) - set(now.jurisdictions):
        desk.confirm(f"let requests go to {', '.join(rule)} as well")
    desk.one(desk.client.residency.put(account, rule, version=now.version))


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(datacenters, name="datacenters")
