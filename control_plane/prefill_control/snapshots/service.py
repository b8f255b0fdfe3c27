"""Publishes snapshots: on a change those whom it concerns, else a renewal.

A change costs its own tenants' entries, one roll and one signature, however many tenants there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

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
from prefill_control.snapshots.build import build_models, build_places, build_tenant, is_forgotten
from prefill_control.snapshots.repository import SnapshotRepository
from prefill_control.snapshots.store import Held, SnapshotStore, without
from prefill_control.work import Clock

log = structlog.get_logger()
TURN_TENANTS = 20  # a millisecond or two; then requests have their turn


class Publisher:
    """Any number of processes may have one: a lock in the database puts them in line."""

    def __init__(self, database: Database, store: SnapshotStore, now: Clock) -> None:
        self._database, self._store, self._now = database, store, now
        self._known: Held | None = None  # good for as long as the published beat names its roll

    async def publish(self, changed: Collection[str] | None = None) -> Beat:
        """Everything (None), or the catalogue and these tenants beside what is published."""
        async with self._in_line() as rows:
            found = await self._held()
            base = found if changed is not None and found else None
            if base and not await _is_last(rows, base.beat):
                base = None
            some = frozenset(changed or ()) if base else await rows.all_ids()
            entries = await self._entries(rows, some)
            _name_oversized(entries)
            kept = dict(base.roll.tenants) if base else {}
            for tenant in some:
                kept.pop(tenant, None)
            catalogue = await rows.catalogue()
            named = {**kept, **{t: digest_of(data) for t, data in entries.items()}}
            roll = Roll(
                places=build_places(catalogue),
                models=build_models(catalogue),
                # The encoder's own sort takes 0.4 s for 10,000 names that are almost in order.
                tenants=dict(sorted(named.items())),
            )
            data = encode_part(roll)
            beat = await self._beat(rows, digest_of(data), found.beat if found else None)
            gone = found.roll.tenants.keys() - named.keys() if found else ()
            after = base.beat if base else None
            await self._store.write(beat, data, entries, gone=gone, after=after)
            self._known = Held(beat, roll)
        log.info("published", version=beat.version, entries=len(entries))
        return beat

    async def renew(self) -> Beat:
        """The same content, valid for longer; everything when Redis has lost it, or went back."""
        async with self._in_line() as rows:
            held = await self._store.beat()
            if held is not None and await _is_last(rows, held):
                beat = await self._beat(rows, held.roll_digest, held)
                if await self._store.renew(beat, held):
                    return beat
        return await self.publish()

    async def everybody(self) -> list[str] | None:
        """Whom an entry should or does exist for; None when what is published is not whole."""
        self._known = await self._store.held()
        if self._known is None:
            return None
        async with self._database.transaction(OfOperator()) as session:
            there = await SnapshotRepository(session).all_ids()
        return sorted({*there, *self._known.roll.tenants})

    async def differing(self, ids: Collection[str]) -> frozenset[str]:
        """Those of the tenants whose published entry is not what the tables say, or not there.

        Nobody waits for this: without the lock it may name one that has just been published, and
        publishing that one again does no harm.
        """
        held = await self._held()
        if held is None:
            return frozenset(ids)
        async with self._database.transaction(OfOperator()) as session:
            entries = await self._entries(SnapshotRepository(session), ids)
        wanted = {tenant: digest_of(data) for tenant, data in entries.items()}
        stored = await self._store.digests(sorted(wanted))
        named = held.roll.tenants
        return frozenset(
            tenant
            for tenant in ids
            if wanted.get(tenant) != named.get(tenant)
            or (tenant in wanted and stored.get(tenant) != wanted[tenant])
        )

    async def sweep(self) -> int:
        """Takes entries away that the roll does not name; how many. Their tenants were deleted, or
        closed long ago, when everything was published, or somebody else wrote them."""
        held = await self._held()
        strays = await self._store.strays(held.roll.tenants) if held else []
        if not strays:
            return 0
        async with self._in_line() as rows:  # nobody is just writing the entry of a new tenant
            held = await self._held()
            if held is None or not await _is_last(rows, held.beat):
                return 0
            strays = without(held.roll.tenants, strays)
            await self._store.retire(strays)
        log.info("entries of nobody", entries=len(strays))
        return len(strays)

    @asynccontextmanager
    async def _in_line(self) -> AsyncIterator[SnapshotRepository]:
        async with self._database.transaction(OfOperator()) as session:
            rows = SnapshotRepository(session)
            await rows.lock()
            yield rows

    async def _held(self) -> Held | None:
        """What is published. The roll of ten thousand tenants is read again only when another
        process has published one since."""
        beat, known = await self._store.beat(), self._known
        if beat is not None and known is not None and beat.roll_digest == known.beat.roll_digest:
            self._known = Held(beat, known.roll)
        else:
            self._known = await self._store.held()
        return self._known

    async def _entries(self, rows: SnapshotRepository, ids: Collection[str]) -> dict[str, bytes]:
        now, entries = self._now(), dict[str, bytes]()
        async for page in rows.pages(ids):
            for found in page:
                if is_forgotten(found.tenant, now):
                    continue
                entries[found.tenant.id] = encode_part(build_tenant(found, now))
                if len(entries) % TURN_TENANTS == 0:
                    await asyncio.sleep(0)
        return entries

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


async def _is_last(rows: SnapshotRepository, beat: Beat) -> bool:
    """Whether no beat was numbered after this one. Our signature alone does not tell: a replica
    that lagged when it took over holds what was ours, with keys that were revoked since."""
    last = await rows.last_version()
    if beat.version != last:
        log.error("what is published is not the last", version=beat.version, last=last)
    return beat.version == last


def _name_oversized(entries: dict[str, bytes]) -> None:
    for tenant, data in entries.items():
        if len(data) > MAX_TENANT_BYTES:
            log.error("entry beyond its limit", tenant=tenant, bytes=len(data))
