"""All SQL about callers: whom a proof belongs to, found in one round trip."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, text

from prefill_control.db import Database

CALLER = text("SELECT * FROM prefill_caller(:proof)")


async def caller(database: Database, proof: str) -> Row[Any] | None:
    """The key or session whose secret has this proof, with its tenant's state and its rights.

    The function shows the proof, then enters the tenant that it led to, so the walls between
    tenants hold inside it as they do everywhere.
    """
    return await database.row(CALLER, {"proof": proof})
