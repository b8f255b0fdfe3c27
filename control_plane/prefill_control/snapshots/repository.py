"""All SQL of snapshots: one lock, one rising number, and the rows that an entry is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Text, any_, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.keys.models import ApiKey
from prefill_control.models.models import Model, ModelGrant, Price, PriceOverride
from prefill_control.quotas.models import Limits
from prefill_control.tenants.models import Tenant

LOCK_NUMBER = 7_310_002
PAGE_TENANTS = 200  # seven statements a page, of a few milliseconds each
OfTenants = type[ApiKey | Limits | DatacenterPreference | Residency | ModelGrant | PriceOverride]


@dataclass(frozen=True, slots=True)
class TenantRows:
    """Everything in the tables about one tenant that a gateway has to know.

    Plain rows with the tables' column names: objects of the mapper cost several times as much.
    """

    tenant: Row[Any]
    keys: Sequence[Row[Any]]
    limits: Sequence[Row[Any]]
    preferences: Sequence[Row[Any]]
    residencies: Sequence[Row[Any]]
    grants: Sequence[Row[Any]]
    overrides: Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """What is the same for all tenants."""

    datacenters: list[Datacenter]
    models: list[Model]
    prices: list[Price]


class SnapshotRepository:
    """Reads for every tenant: its session must be the operator's."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self) -> None:
        """One publisher at a time, until the transaction ends: versions come in the order of
        what they were read from."""
        await self._session.execute(
            text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK_NUMBER}
        )

    async def next_version(self, floor: int) -> int:
        """Higher than any before and at least `floor`, also after a restore from a backup."""
        statement = text(
            "SELECT setval('snapshot_versions', greatest(nextval('snapshot_versions'), :floor))"
        )
        return int(await self._session.scalar(statement, {"floor": floor}) or floor)

    async def last_version(self) -> int:
        """The highest that was given out, to a beat that may not have been published; 0: none."""
        statement = text(
            "SELECT last_value FROM pg_sequences WHERE sequencename = 'snapshot_versions'"
            " AND schemaname = ANY (current_schemas(false))"
        )
        return int(await self._session.scalar(statement) or 0)

    async def catalogue(self) -> CatalogueRows:
        """Datacenters, models, list prices, in a fixed order."""
        session = self._session
        return CatalogueRows(
            list(await session.scalars(select(Datacenter).order_by(Datacenter.name))),
            list(await session.scalars(select(Model).order_by(Model.name))),
            list(await session.scalars(select(Price).order_by(Price.model, Price.valid_from))),
        )

    async def all_ids(self) -> list[str]:
        """Every tenant there is, in one order."""
        return list(await self._session.scalars(select(Tenant.id).order_by(Tenant.id)))

    async def pages(self, ids: Collection[str]) -> AsyncIterator[list[TenantRows]]:
        """The rows of these tenants, some at a time: the loop that reads them answers requests,
        too. An id that names none is left out."""
        wanted = sorted(ids)
        for start in range(0, len(wanted), PAGE_TENANTS):
            yield await self._tenants(wanted[start : start + PAGE_TENANTS])

    async def _tenants(self, ids: list[str]) -> list[TenantRows]:
        query = select(*Tenant.__table__.columns).where(Tenant.id == _one_of(ids))
        tenants = (await self._session.execute(query.order_by(Tenant.id))).all()
        keys = await self._by_tenant(ApiKey, ids)
        limits = await self._by_tenant(Limits, ids)
        preferences = await self._by_tenant(DatacenterPreference, ids)
        residencies = await self._by_tenant(Residency, ids)
        grants = await self._by_tenant(ModelGrant, ids)
        overrides = await self._by_tenant(PriceOverride, ids)
        return [
            TenantRows(
                tenant,
                keys[tenant.id],
                limits[tenant.id],
                preferences[tenant.id],
                residencies[tenant.id],
                grants[tenant.id],
                overrides[tenant.id],
            )
            for tenant in tenants
        ]

    async def _by_tenant(
        self, table: OfTenants, ids: list[str]
    ) -> defaultdict[str, list[Row[Any]]]:
        query = select(*table.__table__.columns).where(table.tenant_id == _one_of(ids))
        found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
        for row in await self._session.execute(query.order_by(table.tenant_id, table.id)):
            found[row.tenant_id].append(row)
        return found


def _one_of(ids: list[str]) -> Any:
    """One parameter, however many: the statement stays the same, and prepared."""
    return any_(literal(ids, ARRAY(Text())))
