"""Snapshots in Redis: read back what is published, write a new one in one step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from prefill_fleet.names import BEAT_KEY, CHANGED_CHANNEL, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import (
    MAX_BEAT_BYTES,
    MAX_ROLL_BYTES,
    VALID_MS,
    Beat,
    Roll,
    digest_of,
    open_beat,
    open_roll,
    sign_beat,
)
from prefill_wire.errors import WireError
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

log = structlog.get_logger()
BATCH = 50
KEEP_SECONDS = 24 * 3600  # of what is published; nobody may use it after 60 s anyway
LINGER_SECONDS = VALID_MS // 1000  # of an entry: no roll that names it holds for longer
SCAN_KEYS = 1000  # at once, a fraction of a millisecond of the server's
PINNED = "prefill:control:pinned"  # never written: who watches it learns that its server went
WRONG_TYPE = "WRONGTYPE"
_PREFIX_BYTES = len(tenant_key(""))


@dataclass(frozen=True, slots=True)
class Held:
    """What Redis holds and our own signature covers."""

    beat: Beat
    roll: Roll


class SnapshotStore:
    """Thin I/O; the caller holds the publisher's lock."""

    def __init__(self, redis: Redis, key: SigningKey) -> None:
        self._redis, self._key = redis, key

    async def beat(self) -> Beat | None:
        """The published beat; None when there is none, or none of ours."""
        (signed,) = await self._read((BEAT_KEY, MAX_BEAT_BYTES))
        return self._opened(signed)

    async def held(self) -> Held | None:
        """Beat and roll of one moment; None when either is absent or not ours."""
        signed, data = await self._read((BEAT_KEY, MAX_BEAT_BYTES), (ROLL_KEY, MAX_ROLL_BYTES))
        beat = self._opened(signed)
        if beat is None or not data:
            return None
        try:
            return Held(beat, open_roll(data, beat.roll_digest))
        except WireError as error:
            log.error("published roll", reason=error.message)
            return None

    def _opened(self, signed: bytes) -> Beat | None:
        if not signed:
            return None
        try:
            return open_beat(self._key.public_bytes, signed)
        except WireError as error:
            log.error("published beat", reason=error.message)
            return None

    async def _read(self, *values: tuple[str, int]) -> list[bytes]:
        """What lies there at one moment, by name and limit: at most one byte more than may be
        there, as a longer value is refused by its digest. What is no string is nothing: the next
        write replaces it."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            for name, limit_bytes in values:
                pipeline.getrange(name, 0, limit_bytes)
            found = await pipeline.execute(raise_on_error=False)
        for each in found:
            if isinstance(each, Exception) and not str(each).startswith(WRONG_TYPE):
                raise each
        return [each if isinstance(each, bytes) else b"" for each in found]

    async def digests(self, tenants: Sequence[str]) -> Mapping[str, bytes]:
        """What the stored entries of these tenants are worth; an absent one is not in it."""
        found: dict[str, bytes] = {}
        for start in range(0, len(tenants), BATCH):
            some = tenants[start : start + BATCH]
            stored = await self._redis.mget([tenant_key(tenant) for tenant in some])
            pairs = zip(some, cast("list[bytes | None]", stored), strict=True)
            found |= {tenant: digest_of(data) for tenant, data in pairs if data is not None}
        return found

    async def renew(self, beat: Beat, after: Beat | None = None) -> bool:
        """Only the beat; False when the roll is gone. With `after` as in `write`."""
        async with self._redis.pipeline(transaction=True) as last:
            await last.watch(PINNED)
            await self._check_there(last, after)
            if not await last.exists(ROLL_KEY):
                return False
            last.multi()  # type: ignore[no-untyped-call]  # the client is half typed
            last.set(BEAT_KEY, sign_beat(self._key, beat), ex=KEEP_SECONDS)
            await last.execute()
        return True

    async def strays(self, named: Collection[str]) -> list[bytes]:
        """Keys of entries of tenants that are not among `named`."""
        found = self._redis.scan_iter(match=tenant_key("*"), count=SCAN_KEYS)
        return without(named, [name async for name in found])

    async def retire(self, strays: Sequence[bytes]) -> None:
        """Take entries away that no roll names any more, once nobody may use one that did."""
        for start in range(0, len(strays), BATCH):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for name in strays[start : start + BATCH]:
                    pipeline.expire(name, LINGER_SECONDS)
                await pipeline.execute()

    async def write(
        self,
        beat: Beat,
        roll: bytes,
        entries: Mapping[str, bytes],
        *,
        gone: Collection[str] = (),
        after: Beat | None = None,
    ) -> None:
        """Entries some at a time, then roll and beat at once, then the word that there is
        something new. Who reads in between finds an entry that its roll does not name, keeps the
        one it has, and looks again. Entries of those who are gone stay for who just read the roll
        before.

        `after`: the beat that the rest of the roll was taken from. WatchError when it is no longer
        there, or when the server went meanwhile: the one that answers now may lack it all.
        """
        async with self._redis.pipeline(transaction=True) as last:
            await last.watch(PINNED)
            await self._write_entries(list(entries.items()))
            await self._check_there(last, after)
            last.multi()  # type: ignore[no-untyped-call]  # the client is half typed
            last.set(ROLL_KEY, roll)
            last.set(BEAT_KEY, sign_beat(self._key, beat), ex=KEEP_SECONDS)
            for tenant in gone:
                last.expire(tenant_key(tenant), LINGER_SECONDS)
            last.publish(CHANGED_CHANNEL, str(beat.version))
            await last.execute()

    async def _write_entries(self, entries: Sequence[tuple[str, bytes]]) -> None:
        for start in range(0, len(entries), BATCH):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for tenant, data in entries[start : start + BATCH]:
                    pipeline.set(tenant_key(tenant), data)
                await pipeline.execute()

    async def _check_there(self, last: Pipeline, after: Beat | None) -> None:
        """WatchError unless this beat (None: any) is there."""
        if after is not None:
            found = await cast(Any, last).getrange(BEAT_KEY, 0, MAX_BEAT_BYTES)
            if self._opened(found) != after:
                raise WatchError(f"beat {after.version} is no longer there")


def without(named: Collection[str], names: Sequence[bytes]) -> list[bytes]:
    """Those of the entries' keys whose tenant is not among `named`."""
    return [n for n in names if n[_PREFIX_BYTES:].decode(errors="replace") not in named]
