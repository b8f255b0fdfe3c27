"""`prefill-cloud tenants`: accounts, their people (`tenants members`), signing in."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import chosen
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud.manage.members import Session

tenants = typer.Typer(help="Accounts.", no_args_is_help=True)
members = typer.Typer(help="People of an account.", no_args_is_help=True)

TenantId = Annotated[str, typer.Argument(help="ten_...")]
MemberId = Annotated[str, typer.Argument(help="mem_...")]
Name = Annotated[str, typer.Option(help="A name for people.")]
Role = Annotated[str, typer.Option(help="owner, admin, billing, developer or viewer.")]
Email = Annotated[str, typer.Option(help="E-mail address.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit row.")]
NewPassword = Annotated[
    str,
    typer.Option(
        prompt="new password",
        hide_input=True,
        confirmation_prompt=True,
        envvar="PREFILL_NEW_PASSWORD",
        help="At least 12 characters; asked for when it is not in the environment.",
    ),
]
Password = Annotated[
    str, typer.Option(prompt="password", hide_input=True, envvar="PREFILL_PASSWORD")
]
STATES = ("active", "suspended", "closed")
SHOWN = "id name state created_at"
PEOPLE = "id email name role has_password locked_until"


@verb(tenants, "create")
def create(desk: Desk, *, name: Annotated[str, typer.Argument(help="A name.")]) -> None:
    """Create an account."""
    desk.one(desk.client.tenants.create(name))


@verb(tenants, "list", "list")
def list_all(
    desk: Desk, *, state: Annotated[str, typer.Option(help="active, suspended or closed.")] = ""
) -> None:
    """List accounts, newest first."""
    only = chosen("--state", state, STATES)
    desk.rows(desk.client.tenants.list(state=only), SHOWN)


@verb(tenants, "show")
def show(desk: Desk, *, tenant_id: TenantId) -> None:
    """Show an account."""
    desk.one(desk.client.tenants.read(tenant_id))


@verb(tenants, "update")
def update(desk: Desk, *, tenant_id: TenantId, name: Name) -> None:
    """Rename an account."""
    now = desk.client.tenants.read(tenant_id)
    desk.one(desk.client.tenants.update(tenant_id, name=name, version=now.version))


@verb(tenants, "suspend", "destructive")
def suspend(desk: Desk, *, tenant_id: TenantId, reason: Reason = "") -> None:
    """Refuse an account's keys and sessions; everything is kept."""
    desk.confirm(f"suspend {tenant_id}, whose keys then stop working")
    desk.one(desk.client.tenants.suspend(tenant_id, reason=reason))


@verb(tenants, "resume")
def resume(desk: Desk, *, tenant_id: TenantId, reason: Reason = "") -> None:
    """Let the same keys work again."""
    desk.one(desk.client.tenants.resume(tenant_id, reason=reason))


@verb(tenants, "close", "destructive")
def close(desk: Desk, *, tenant_id: TenantId, reason: Reason = "") -> None:
    """Close an account for good: its keys are revoked, receipts and audit rows stay."""
    desk.confirm(f"close {tenant_id} for good")
    desk.one(desk.client.tenants.close(tenant_id, reason=reason))


@verb(tenants, "sign-in")
def sign_in(desk: Desk, *, email: Email, password: Password) -> None:
    """Sign in to --tenant with e-mail and password; prints a token for PREFILL_CREDENTIAL."""
    if not desk.tenant:
        raise NotConfigured("signing in needs the account", "give --tenant TENANT_ID")
    desk.one(_session(desk, email, password))


def _session(desk: Desk, email: str, password: str) -> "Session":
    with desk.access.open(anonymous=True) as stranger:
        return stranger.sessions.create(tenant_id=desk.tenant, email=email, password=password)


@verb(tenants, "sign-out")
def sign_out(desk: Desk) -> None:
    """End every session of the person whose session token this is."""
    desk.client.sessions.delete_all()
    desk.done("signed out everywhere")


@verb(members, "create")
def create_member(
    desk: Desk,
    *,
    email: Annotated[str, typer.Argument(help="E-mail address.")],
    name: Name,
    role: Role = "viewer",
) -> None:
    """Add a person; `password` gives them one."""
    desk.one(desk.client.members.create(email, name=name, role=role))


@verb(members, "list", "list")
def list_members(
    desk: Desk, *, role: Annotated[str, typer.Option(help="Only these.")] = ""
) -> None:
    """List people, newest first."""
    desk.rows(desk.client.members.list(role=role), PEOPLE)


@verb(members, "show")
def show_member(desk: Desk, *, member_id: MemberId) -> None:
    """Show a person."""
    desk.one(desk.client.members.read(member_id))


@verb(members, "update")
def update_member(
    desk: Desk,
    *,
    member_id: MemberId,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    role: Annotated[str | None, typer.Option(help="Another role.")] = None,
) -> None:
    """Change name or role."""
    nouns = desk.client.members
    now = nouns.read(member_id)
    name, role = name or now.name, role or now.role
    desk.one(nouns.update(member_id, name=name, role=role, version=now.version))


@verb(members, "password")
def password_of(desk: Desk, *, member_id: MemberId, password: NewPassword) -> None:
    """Set a person's password; their sessions end."""
    desk.one(desk.client.members.set_password(member_id, password))


@verb(members, "delete", "destructive")
def delete_member(desk: Desk, *, member_id: MemberId) -> None:
    """Remove a person; keys that they made stay."""
    desk.confirm(f"remove {member_id}")
    desk.client.members.delete(member_id)
    desk.done(f"removed {member_id}")


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    tenants.add_typer(members, name="members")
    app.add_typer(tenants, name="tenants")
