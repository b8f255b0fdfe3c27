"""Publishes snapshots: on a change those whom it concerns, now and then all, else a renewal."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from prefill_fleet.snapshot import (
    MAX_TENANT_BYTES,
    VALID_MS,
    Beat,
    Roll,
    digest_of,
    encode_part,
)

from prefill_control.db import Database, OfOperator
from prefill_control.snapshots.build import build_models, build_places, build_tenant
from prefill_control.snapshots.repository import SnapshotRepository
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.work import Clock

log = structlog.get_logger()


class Publisher:
    """Any number of processes may have one: a lock in the database puts them in line."""

    def __init__(self, database: Database, store: SnapshotStore, now: Clock) -> None:
        self._database, self._store, self._now = database, store, now

    async def publish(self, changed: Collection[str] | None = None) -> Beat:
        """Everything (None), or the catalogue and these tenants beside what is published."""
        async with self._database.transaction(OfOperator()) as session:
            rows = SnapshotRepository(session)
            await rows.lock()
            held = await self._store.held()
            ids = None if changed is None or held is None else frozenset(changed)
            entries: dict[str, bytes] = {}
            async for page in rows.pages(ids):
                for found in page:
                    entries[found.tenant.id] = encode_part(build_tenant(found, self._now()))
            _name_oversized(entries)
            kept = {} if ids is None or held is None else dict(held.roll.tenants)
            for tenant in ids or ():
                kept.pop(tenant, None)
            catalogue = await rows.catalogue()
            roll = encode_part(
                Roll(
                    places=build_places(catalogue),
                    models=build_models(catalogue),
                    tenants={**kept, **{t: digest_of(data) for t, data in entries.items()}},
                )
            )
            beat = await self._beat(rows, digest_of(roll), held.beat if held else None)
            await self._store.write(beat, roll, entries)
        log.info("published", version=beat.version, entries=len(entries))
        return beat

    async def renew(self) -> Beat:
        """The same content, valid for longer; everything when Redis has lost it."""
        async with self._database.transaction(OfOperator()) as session:
            rows = SnapshotRepository(session)
            await rows.lock()
            held = await self._store.beat()
            if held is not None:
                beat = await self._beat(rows, held.roll_digest, held)
                if await self._store.renew(beat):
                    return beat
        return await self.publish()

    async def _beat(self, rows: SnapshotRepository, digest: bytes, held: Beat | None) -> Beat:
        now_ms = int(self._now().timestamp() * 1000)
        # The clock is a floor: after a restore of both stores gateways still see a higher number.
        floor = max(now_ms, held.version + 1 if held else 0)
        return Beat(
            version=await rows.next_version(floor),
            issued_at_ms=now_ms,
            valid_until_ms=now_ms + VALID_MS,
            roll_digest=digest,
        )


def _name_oversized(entries: dict[str, bytes]) -> None:
    for tenant, data in entries.items():
        if len(data) > MAX_TENANT_BYTES:
            log.error("entry beyond its limit", tenant=tenant, bytes=len(data))
