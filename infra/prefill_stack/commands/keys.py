"""`prefill-cloud keys`: API keys of an account."""

import datetime as dt
from typing import Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import chosen, kept, moment

keys = typer.Typer(help="API keys.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="key_...")]
Name = Annotated[str, typer.Argument(help="A name for people.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="<scope>", help="prefill, usage:read, manage:*, ...; repeat."),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option("--address", metavar="<network>", help="Network it may be used from; repeat."),
]
Expires = Annotated[str | None, typer.Option(help="2030-01-31T00:00:00Z, or 90d from now.")]
MANAGE = ("keys", "members", "limits", "datacenters", "tenant", "*")
SCOPES = (
    *("prefill", "account:read", "usage:read", "audit:read"),
    *(f"manage:{noun}" for noun in MANAGE),
    "platform",
)
STATES = ("active", "revoked")
SHOWN = "id tenant_id name state last4 scopes expires_at last_used_at"
ONCE = "the secret is shown this once; whoever has it is the key"
OPERATORS_PREFIX = "pco"
OPERATORS = (
    "it is a key of the operators, which no gateway takes: "
    "--tenant TENANT_ID makes one that may prefill"
)


def _scopes(given: list[str] | None) -> list[str]:
    return [chosen("--scope", scope, SCOPES) for scope in given or ()]


@verb(keys, "create")
def create(
    desk: Desk,
    *,
    name: Name,
    scope: Scopes = None,
    address: Addresses = None,
    expires: Expires = None,
) -> None:
    """Create a key that may prefill, or what --scope names; shows its secret, once.

    Operators name the account with --tenant.
    """
    from prefill_cloud.manage import KeyValues

    values = KeyValues(
        name=name,
        scopes=_scopes(scope) or ["prefill"],
        addresses=address or (),
        expires_at=moment("--expires", expires),
    )
    created = desk.client.keys.create(values)
    useless = created.key.prefix == OPERATORS_PREFIX and values.scopes == ["prefill"]
    desk.one(created, f"{ONCE}\n{OPERATORS}" if useless else ONCE)


@verb(keys, "list", "list")
def list_all(
    desk: Desk, *, state: Annotated[str, typer.Option(help="active or revoked.")] = ""
) -> None:
    """List keys, newest first."""
    only = chosen("--state", state, STATES)
    desk.rows(desk.client.keys.list(state=only), SHOWN)


@verb(keys, "show")
def show(desk: Desk, *, key_id: KeyId) -> None:
    """Show a key, without its secret."""
    desk.one(desk.client.keys.read(key_id))


@verb(keys, "update")
def update(
    desk: Desk,
    *,
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    scope: Scopes = None,
    address: Addresses = None,
    expires: Expires = None,
) -> None:
    """Change what is named; an empty --address or --expires lifts it. The secret stays."""
    import msgspec

    now = desk.client.keys.read(key_id)
    ends: dt.datetime | None = now.expires_at if expires is None else moment("--expires", expires)
    values = msgspec.structs.replace(
        now.values(),
        name=name or now.name,
        scopes=_scopes(scope) or now.scopes,
        addresses=kept(address, now.addresses),
        expires_at=ends,
    )
    desk.one(desk.client.keys.update(key_id, values, version=now.version))


@verb(keys, "rotate")
def rotate(
    desk: Desk,
    *,
    key_id: KeyId,
    overlap_seconds: Annotated[int, typer.Option(min=0, help="The old secret works on.")] = 3600,
) -> None:
    """Issue a successor with the same rights; shows its secret, once."""
    desk.one(desk.client.keys.rotate(key_id, overlap_seconds=overlap_seconds), ONCE)


@verb(keys, "revoke", "destructive")
def revoke(desk: Desk, *, key_id: KeyId) -> None:
    """Revoke a key for good."""
    desk.confirm(f"revoke {key_id} for good")
    desk.one(desk.client.keys.revoke(key_id))


@verb(keys, "check")
def check(
    desk: Desk,
    *,
    secret: Annotated[
        str,
        typer.Option(prompt="secret", hide_input=True, envvar="PREFILL_CHECKED_KEY"),
    ],
    address: Annotated[str, typer.Option(help="As if it was shown from here.")] = "",
) -> None:
    """Say what a secret comes to; it is asked for, or taken from PREFILL_CHECKED_KEY."""
    desk.one(desk.client.keys.check(secret, address=address))


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(keys, name="keys")
