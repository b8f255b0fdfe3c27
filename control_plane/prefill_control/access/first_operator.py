"""The first operator credential: made once, when the platform has no operator key yet."""

from __future__ import annotations

from prefill_wire.ids import Random
from sqlalchemy import func, select, text

from prefill_control.access.scopes import Scope
from prefill_control.access.secrets import Pepper
from prefill_control.db import Database, OfOperator
from prefill_control.keys.models import ApiKey
from prefill_control.keys.service import KeyDraft, create
from prefill_control.tenants.models import PLATFORM_TENANT
from prefill_control.work import Actor, Clock, Work

NAME = "first operator"
INSTALLER = Actor("task", "install", PLATFORM_TENANT, frozenset(Scope))


async def first_operator(
    database: Database, pepper: Pepper, now: Clock, random: Random
) -> str | None:
    """The secret of a fresh operator key; None when the platform has a key already."""
    async with database.transaction(OfOperator()) as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(7310002)"))
        count = select(func.count()).where(ApiKey.tenant_id == PLATFORM_TENANT)
        if await session.scalar(count):
            return None
        work = Work(
            session=session,
            actor=INSTALLER,
            tenant_id=PLATFORM_TENANT,
            now=now(),
            random=random,
            request_id="",
        )
        issued = await create(work, pepper, KeyDraft(name=NAME, scopes=list(Scope)))
        return issued.secret.text
