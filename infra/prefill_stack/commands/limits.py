"""`prefill-cloud limits`: rates, concurrency and quotas of an account or of one key."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud.manage.limits import Limits

limits = typer.Typer(help="Rates, concurrency, quotas.", no_args_is_help=True)

Subject = Annotated[str, typer.Argument(help="A key's id, or `tenant` for the account.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="<limit=number>", help="NAME=NUMBER of a limit; NAME= lifts it; repeat."
    ),
]
SHOWN = (
    "tenant_id key_id requests_per_second tokens_per_second concurrency day_tokens_hard "
    "month_tokens_hard"
)


@verb(limits, "list", "list")
def list_all(desk: Desk) -> None:
    """List limits, newest first."""
    desk.rows(desk.client.limits.list(), SHOWN)


@verb(limits, "show")
def show(desk: Desk, *, subject: Subject = "tenant") -> None:
    """Show the limits of a key, or of the account."""
    desk.one(desk.client.limits.read(subject))


@verb(limits, "update")
def update(desk: Desk, *, subject: Subject, changes: Set = None) -> None:
    """Change what --set names, e.g. --set requests_per_second=50; the rest stays."""
    import msgspec
    from prefill_cloud.manage import NO_VERSION, LimitValues

    now = _limits_now(desk, subject)
    values = now.values() if now is not None else LimitValues()
    values = msgspec.structs.replace(values, **parsed(changes or [], LimitValues.__struct_fields__))
    version = now.version if now is not None else NO_VERSION
    desk.one(desk.client.limits.put(subject, values, version=version))


def _limits_now(desk: Desk, subject: str) -> "Limits | None":
    from prefill_cloud.manage.errors import NotFoundError

    try:
        return desk.client.limits.read(subject)
    except NotFoundError:
        return None


def parsed(changes: list[str], known: tuple[str, ...]) -> dict[str, int | None]:
    """NAME=NUMBER options; an empty number is None."""
    found: dict[str, int | None] = {}
    for change in changes:
        name, separator, number = change.partition("=")
        if name not in known or not separator:
            raise NotConfigured(
                f"--set {change!r} is no limit's NAME=NUMBER", f"limits: {', '.join(known)}"
            )
        if number and not (number.isascii() and number.isdecimal()):
            raise NotConfigured(
                f"--set {name}: {number[:40]!r} is no whole number from 0 on",
                f"give one, or nothing after the sign ({name}=) to lift this limit",
            )
        found[name] = int(number) if number else None
    return found


@verb(limits, "delete", "destructive")
def delete(desk: Desk, *, subject: Subject) -> None:
    """Limit a key, or the account, no more."""
    desk.confirm(f"lift every limit of {subject}")
    desk.client.limits.delete(subject)
    desk.done(f"no limits of {subject} any more")


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(limits, name="limits")
