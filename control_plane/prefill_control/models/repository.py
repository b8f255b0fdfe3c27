"""All SQL about models, prices, overrides and grants."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.models.models import Model, ModelGrant, Price, PriceOverride
from prefill_control.pages import Order, PageOf, PageRequest, page_of

MODELS = Order(Model.created_at, Model.name)
PRICES = Order(Price.valid_from, Price.id)
OVERRIDES = Order(PriceOverride.valid_from, PriceOverride.id)
GRANTS = Order(ModelGrant.created_at, ModelGrant.id)


async def find(session: AsyncSession, name: str, tenant_id: str | None) -> Model | None:
    """The model, when this tenant may see it (None: an operator, who sees all)."""
    statement = select(Model).where(Model.name == name)
    return await session.scalar(_visible(statement, tenant_id))


async def page(
    session: AsyncSession, state: str, tenant_id: str | None, asked: PageRequest
) -> PageOf[Model]:
    """Models that this tenant may see."""
    statement = _visible(select(Model), tenant_id)
    if state:
        statement = statement.where(Model.state == state)
    return await page_of(session, statement, MODELS, asked)


async def prices(session: AsyncSession, model: str, asked: PageRequest) -> PageOf[Price]:
    """List prices, the latest validity first."""
    statement = select(Price)
    if model:
        statement = statement.where(Price.model == model)
    return await page_of(session, statement, PRICES, asked)


async def overrides(session: AsyncSession, model: str, asked: PageRequest) -> PageOf[PriceOverride]:
    """Overrides that the transaction sees, the latest validity first."""
    statement = select(PriceOverride)
    if model:
        statement = statement.where(PriceOverride.model == model)
    return await page_of(session, statement, OVERRIDES, asked)


async def prices_of(session: AsyncSession, model: str) -> Sequence[Price]:
    """Every list price of a model."""
    return (await session.scalars(select(Price).where(Price.model == model))).all()


async def overrides_of(
    session: AsyncSession, model: str, tenant_id: str
) -> Sequence[PriceOverride]:
    """A tenant's own prices of a model."""
    statement = select(PriceOverride).where(
        PriceOverride.model == model, PriceOverride.tenant_id == tenant_id
    )
    return (await session.scalars(statement)).all()


async def grants(session: AsyncSession, asked: PageRequest) -> PageOf[ModelGrant]:
    """Grants that the transaction sees."""
    return await page_of(session, select(ModelGrant), GRANTS, asked)


async def grant(session: AsyncSession, grant_id: str) -> ModelGrant | None:
    """One grant."""
    return await session.scalar(select(ModelGrant).where(ModelGrant.id == grant_id))


def _visible(statement: Select[Model], tenant_id: str | None) -> Select[Model]:
    """Unrestricted models, and those that the tenant has a grant for."""
    if tenant_id is None:
        return statement
    granted = select(ModelGrant.model).where(ModelGrant.tenant_id == tenant_id)
    return statement.where(or_(Model.restricted.is_(False), Model.name.in_(granted)))
