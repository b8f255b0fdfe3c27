"""Apply and take back versions; blocking, for commands and tests."""

from __future__ import annotations

import logging
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def configuration(owner_url: str = "") -> Config:
    """Alembic's configuration without a file; `owner_url` logs in as the owner role."""
    config = Config()
    config.set_main_option("script_location", str(files("prefill_migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = owner_url
    return config


def upgrade(owner_url: str, version: str = "head") -> None:
    """Apply versions up to this one; starts no event loop that a caller already runs."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command.upgrade(configuration(owner_url), version)


def downgrade(owner_url: str, version: str = "base") -> None:
    """Take versions back down to this one."""
    command.downgrade(configuration(owner_url), version)


def newest() -> str:
    """The version that this installation expects."""
    return ScriptDirectory.from_config(configuration()).get_current_head() or "base"
