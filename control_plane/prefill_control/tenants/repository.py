"""All SQL about tenants."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.keys.models import ApiKey
from prefill_control.members.models import MemberSession
from prefill_control.pages import Order, PageOf, PageRequest, page_of
from prefill_control.tenants.models import Tenant
from prefill_control.work import Work

ORDER = Order(Tenant.created_at, Tenant.id)


async def find(session: AsyncSession, tenant_id: str) -> Tenant | None:
    """The tenant, when the transaction may see it; its row is locked until the end."""
    return await session.scalar(select(Tenant).where(Tenant.id == tenant_id))


async def page(session: AsyncSession, state: str, asked: PageRequest) -> PageOf[Tenant]:
    """Tenants, newest first; `state` empty for all."""
    statement = select(Tenant)
    if state:
        statement = statement.where(Tenant.state == state)
    return await page_of(session, statement, ORDER, asked)


async def revoke_everything(work: Work, tenant_id: str) -> None:
    """Every key revoked, every session ended."""
    keys = update(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.state == "active")
    await work.session.execute(
        keys.values(state="revoked", revoked_at=work.now, version=ApiKey.version + 1)
    )
    await end_sessions(work.session, tenant_id)


async def end_sessions(session: AsyncSession, tenant_id: str) -> None:
    """Every member has to sign in again."""
    rows = await session.scalars(select(MemberSession).where(MemberSession.tenant_id == tenant_id))
    for row in rows:
        await session.delete(row)
