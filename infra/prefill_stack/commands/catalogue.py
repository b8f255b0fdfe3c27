"""`prefill-cloud models list` and the other verbs of the model catalogue, beside `inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import chosen, kept
from prefill_stack.errors import NotConfigured

Name = Annotated[str, typer.Argument(help="The model's name.")]
Context = Annotated[int | None, typer.Option(min=2, help="Tokens of context.")]
Codecs = Annotated[
    list[str] | None,
    typer.Option(
        "--codec", metavar="<codec>", help="Its states travel by these alone; none: by any. Repeat."
    ),
]
Restricted = Annotated[
    bool | None, typer.Option("--restricted/--open", help="For granted accounts only.")
]
Profile = Annotated[str, typer.Option(help="Numerics profile.")]
STATES = ("active", "retired")
SHOWN = "name state numerics_profile context_tokens codecs restricted fingerprint"

grants = typer.Typer(help="Who may use restricted models.", no_args_is_help=True)


@verb(grants, "create")
def grant(desk: Desk, *, model: Name) -> None:
    """Put the account that --tenant names on a model's allow-list."""
    desk.one(desk.client.model_grants.create(model))


@verb(grants, "list", "list")
def list_grants(desk: Desk) -> None:
    """List grants."""
    desk.rows(desk.client.model_grants.list(), "id tenant_id model created_at")


@verb(grants, "delete", "destructive")
def withdraw(desk: Desk, *, grant_id: Annotated[str, typer.Argument(help="grt_...")]) -> None:
    """Take an account off the allow-list."""
    desk.confirm(f"withdraw {grant_id}")
    desk.client.model_grants.delete(grant_id)
    desk.done(f"withdrew {grant_id}")


def _create(
    desk: Desk,
    *,
    name: Name,
    checkpoint: Annotated[Path, typer.Option(help="Its Hugging Face checkpoint folder.")],
    profile: Profile = "fp32",
    context_tokens: Annotated[int, typer.Option(min=2, help="Tokens of context.")] = 1 << 20,
    codec: Codecs = None,
    restricted: Annotated[bool, typer.Option(help="For granted accounts only.")] = False,
) -> None:
    """Add a model; its fingerprints are those of a checkpoint folder."""
    from prefill_cloud.manage import ModelValues

    from prefill_stack.model_facts import describe

    if not (checkpoint / "config.json").exists():
        raise NotConfigured(f"{checkpoint} is no checkpoint folder", "name one with a config.json")
    facts = describe(checkpoint, profile)
    values = ModelValues(
        fingerprint=str(facts["fingerprint"]),
        tokenizer_fingerprint=str(facts["tokenizer_fingerprint"]),
        numerics_profile=profile,
        context_tokens=context_tokens,
        codecs=codec or (),
        restricted=restricted,
    )
    desk.one(desk.client.models.create(name, values))


def _list(
    desk: Desk, *, state: Annotated[str, typer.Option(help="active or retired.")] = ""
) -> None:
    """List models that the credential may use."""
    only = chosen("--state", state, STATES)
    desk.rows(desk.client.models.list(state=only), SHOWN)


def _show(desk: Desk, *, name: Name) -> None:
    """Show a model of the catalogue."""
    desk.one(desk.client.models.read(name))


def _update(
    desk: Desk,
    *,
    name: Name,
    context_tokens: Context = None,
    codec: Codecs = None,
    restricted: Restricted = None,
) -> None:
    """Change what is named; an empty --codec clears the list."""
    import msgspec

    now = desk.client.models.read(name)
    values = msgspec.structs.replace(
        now.values(),
        context_tokens=context_tokens or now.context_tokens,
        codecs=kept(codec, now.codecs),
        restricted=now.restricted if restricted is None else restricted,
    )
    desk.one(desk.client.models.update(name, values, version=now.version))


def _retire(desk: Desk, *, name: Name) -> None:
    """Serve a model no more."""
    desk.confirm(f"retire {name}, which is then served no more")
    desk.one(desk.client.models.retire(name))


def _restore(desk: Desk, *, name: Name) -> None:
    """Serve a model again."""
    desk.one(desk.client.models.restore(name))


def add_verbs(models: typer.Typer) -> None:
    """Give the catalogue's verbs to `models`."""
    verb(models, "create")(_create)
    verb(models, "list", "list")(_list)
    verb(models, "show")(_show)
    verb(models, "update")(_update)
    verb(models, "retire", "destructive")(_retire)
    verb(models, "restore")(_restore)
    models.add_typer(grants, name="grants")
