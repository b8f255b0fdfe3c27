"""`prefill-cloud audit list`: who did what to which object."""

from typing import Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import since as time_before

audit = typer.Typer(help="Who did what.", no_args_is_help=True)
SHOWN = "at action subject_id actor_id address"


@verb(audit, "list", "list")
def list_all(
    desk: Desk,
    *,
    action: Annotated[str, typer.Option(help="Only these, e.g. keys.create.")] = "",
    actor: Annotated[str, typer.Option(help="Only by this key or member.")] = "",
    subject: Annotated[str, typer.Option(help="Only on this object.")] = "",
    since: Annotated[str, typer.Option(help="2030-01-31T00:00:00Z, or 7d ago.")] = "",
    until: Annotated[str, typer.Option(help="Up to this time, which is excluded.")] = "",
) -> None:
    """List audit rows, newest first; --json has the request id, and what was before and after."""
    rows = desk.client.audit.list(
        action=action,
        actor_id=actor,
        subject_id=subject,
        since=time_before("--since", since),
        until=time_before("--until", until),
    )
    desk.rows(rows, SHOWN)


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    app.add_typer(audit, name="audit")
