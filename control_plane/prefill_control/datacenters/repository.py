"""All SQL about datacenters, preferences and residency rules."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.pages import Order, PageOf, PageRequest, page_of

ORDER = Order(Datacenter.created_at, Datacenter.name)


async def find(session: AsyncSession, name: str) -> Datacenter | None:
    """The datacenter of this name."""
    return await session.scalar(select(Datacenter).where(Datacenter.name == name))


async def page(session: AsyncSession, jurisdiction: str, asked: PageRequest) -> PageOf[Datacenter]:
    """Datacenters, newest first; `jurisdiction` empty for all."""
    statement = select(Datacenter)
    if jurisdiction:
        statement = statement.where(Datacenter.jurisdiction == jurisdiction)
    return await page_of(session, statement, ORDER, asked)


async def everything(session: AsyncSession) -> Sequence[Datacenter]:
    """The whole catalogue, by name."""
    return (await session.scalars(select(Datacenter).order_by(Datacenter.name))).all()


async def preference(session: AsyncSession, tenant_id: str) -> DatacenterPreference | None:
    """A tenant's wish."""
    found = select(DatacenterPreference).where(DatacenterPreference.tenant_id == tenant_id)
    return await session.scalar(found)


async def residency(session: AsyncSession, tenant_id: str) -> Residency | None:
    """A tenant's rule."""
    return await session.scalar(select(Residency).where(Residency.tenant_id == tenant_id))
