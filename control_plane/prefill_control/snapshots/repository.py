"""All SQL of snapshots: one lock, one rising number, and the rows that an entry is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.keys.models import ApiKey
from prefill_control.models.models import Model, ModelGrant, Price, PriceOverride
from prefill_control.quotas.models import Limits
from prefill_control.tenants.models import Tenant

LOCK_NUMBER = 7_310_002
PAGE_TENANTS = 100  # some milliseconds of work at a time
Row = TypeVar("Row", ApiKey, Limits, DatacenterPreference, Residency, ModelGrant, PriceOverride)


@dataclass(slots=True)
class TenantRows:
    """Everything in the tables about one tenant that a gateway has to know."""

    tenant: Tenant
    keys: list[ApiKey] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    preferences: list[DatacenterPreference] = field(default_factory=list)
    residencies: list[Residency] = field(default_factory=list)
    grants: list[ModelGrant] = field(default_factory=list)
    overrides: list[PriceOverride] = field(default_factory=list)


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

    async def catalogue(self) -> CatalogueRows:
        """Datacenters, models, list prices, in a fixed order."""
        session = self._session
        return CatalogueRows(
            list(await session.scalars(select(Datacenter).order_by(Datacenter.name))),
            list(await session.scalars(select(Model).order_by(Model.name))),
            list(await session.scalars(select(Price).order_by(Price.model, Price.valid_from))),
        )

    async def pages(self, ids: Collection[str] | None) -> AsyncIterator[list[TenantRows]]:
        """The rows of these tenants (of all: None), some at a time: the loop that reads them
        answers requests, too. An id that names none is left out."""
        wanted = sorted(ids) if ids is not None else await self._all_ids()
        for start in range(0, len(wanted), PAGE_TENANTS):
            yield await self._tenants(wanted[start : start + PAGE_TENANTS])
            self._session.expunge_all()

    async def _all_ids(self) -> list[str]:
        return list(await self._session.scalars(select(Tenant.id).order_by(Tenant.id)))

    async def _tenants(self, ids: Collection[str]) -> list[TenantRows]:
        query = select(Tenant).where(Tenant.id.in_(ids)).order_by(Tenant.id)
        tenants = list(await self._session.scalars(query))
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
        self, table: type[Row], ids: Collection[str]
    ) -> defaultdict[str, list[Row]]:
        query = select(table).where(table.tenant_id.in_(ids)).order_by(table.tenant_id, table.id)
        return _grouped(await self._session.scalars(query))


def _grouped(rows: Iterable[Row]) -> defaultdict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.tenant_id].append(row)
    return found
