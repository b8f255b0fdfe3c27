"""All SQL about API keys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.keys.models import ApiKey
from prefill_control.pages import Order, PageOf, PageRequest, page_of

ORDER = Order(ApiKey.created_at, ApiKey.id)


async def find(session: AsyncSession, key_id: str) -> ApiKey | None:
    """The key, when the transaction may see it."""
    return await session.scalar(select(ApiKey).where(ApiKey.id == key_id))


async def page(session: AsyncSession, state: str, asked: PageRequest) -> PageOf[ApiKey]:
    """Keys, newest first; `state` empty for all."""
    statement = select(ApiKey)
    if state:
        statement = statement.where(ApiKey.state == state)
    return await page_of(session, statement, ORDER, asked)


async def of_tenants(session: AsyncSession) -> Sequence[ApiKey]:
    """Every key that a snapshot has to tell of (operator reach)."""
    return (await session.scalars(select(ApiKey).order_by(ApiKey.id))).all()


async def mark_used(session: AsyncSession, used: Mapping[str, dt.datetime]) -> None:
    """When keys were last used, as gateways tell; never backwards, and no new version."""
    for key_id, at in sorted(used.items()):  # one order of row locks for everybody
        newer = (ApiKey.last_used_at.is_(None)) | (ApiKey.last_used_at < at)
        await session.execute(
            update(ApiKey).where(ApiKey.id == key_id, newer).values(last_used_at=at)
        )
