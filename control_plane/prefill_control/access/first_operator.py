"""The first operator credential: made once, when the platform has no operator key yet."""

from __future__ import annotations

from prefill_wire.ids import Random
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.access.scopes import Scope
from prefill_control.access.secrets import Pepper
from prefill_control.db import Database, OfOperator
from prefill_control.keys.models import ApiKey
from prefill_control.keys.service import KeyDraft, create
from prefill_control.tenants.models import PLATFORM_TENANT
from prefill_control.work import Actor, Clock, Work

NAME = "first operator"
INSTALLER = Actor("task", "install", PLATFORM_TENANT, frozenset(Scope))


async def has_operator(database: Database) -> bool:
    """Whether the platform has a key already."""
    async with database.transaction(OfOperator()) as session:
        return await _has_key(session)


async def is_operator(database: Database, pepper: Pepper, secret: str) -> bool:
    """Whether a secret is, or once was, one of the platform's own keys."""
    mine = (ApiKey.tenant_id == PLATFORM_TENANT, ApiKey.key_hash == pepper.proof(secret))
    async with database.transaction(OfOperator()) as session:
        return bool(await session.scalar(select(func.count()).where(*mine)))


async def first_operator(
    database: Database, pepper: Pepper, now: Clock, random: Random, kept: str = ""
) -> str | None:
    """The secret of a fresh operator key; None when the platform has a key already.

    `kept`: a secret that its owner has in safety, so that a crash after this commit loses nothing.
    """
    async with database.transaction(OfOperator()) as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(7310003)"))
        if await _has_key(session):
            return None
        work = Work(
            session=session,
            actor=INSTALLER,
            tenant_id=PLATFORM_TENANT,
            now=now(),
            random=random,
            request_id="",
        )
        draft = KeyDraft(name=NAME, scopes=list(Scope))
        issued = await create(work, pepper, draft, pepper.secret(kept) if kept else None)
        return issued.secret.text


async def _has_key(session: AsyncSession) -> bool:
    count = select(func.count()).where(ApiKey.tenant_id == PLATFORM_TENANT)
    return bool(await session.scalar(count))
