"""All SQL about limits."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.pages import Order, PageOf, PageRequest, page_of
from prefill_control.quotas.models import Limits

ORDER = Order(Limits.created_at, Limits.id)


async def find(session: AsyncSession, tenant_id: str, key_id: str | None) -> Limits | None:
    """The limits of a tenant (no key) or of one key of it."""
    statement = select(Limits).where(Limits.tenant_id == tenant_id)
    same = Limits.key_id.is_(None) if key_id is None else Limits.key_id == key_id
    return await session.scalar(statement.where(same))


async def page(session: AsyncSession, asked: PageRequest) -> PageOf[Limits]:
    """Limits, newest first."""
    return await page_of(session, select(Limits), ORDER, asked)


async def everything(session: AsyncSession) -> Sequence[Limits]:
    """Every tenant's limits (operator reach), for snapshots."""
    return (await session.scalars(select(Limits).order_by(Limits.id))).all()
