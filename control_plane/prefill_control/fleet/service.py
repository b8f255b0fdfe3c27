"""Reads the heartbeats of workers and gateways; believes the signed ones, ages all of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import structlog
from prefill_fleet.credential import Role
from prefill_fleet.heartbeat import STALE_MS, Heartbeat, open_heartbeat
from prefill_fleet.names import GATEWAY_BEATS_KEY, WORKER_BEATS_KEY
from prefill_wire.errors import WireError
from redis.asyncio import Redis

log = structlog.get_logger()
FORGET_MS = 3600_000  # a process that fell silent so long ago is no longer listed
SKEW_MS = 60_000  # of a clock that is ahead of ours; beyond it a beat is not believed
MAX_PROCESSES = 10_000
KEYS: Mapping[Role, str] = {Role.WORKER: WORKER_BEATS_KEY, Role.GATEWAY: GATEWAY_BEATS_KEY}


@dataclass(frozen=True, slots=True)
class Process:
    """One worker or gateway; `live` unless it missed five beats."""

    role: Role
    beat: Heartbeat
    live: bool
    silent_ms: int


@dataclass(frozen=True, slots=True)
class FleetView:
    """Everybody who told something lately, by role and name; `refused` heartbeats were not
    believed."""

    processes: tuple[Process, ...]
    refused: int


async def fleet_view(redis: Redis, control_public: bytes, now: dt.datetime) -> FleetView:
    """As of now; also forgets who fell silent long ago. Raises what Redis raises."""
    now_ms = int(now.timestamp() * 1000)
    found: list[Process] = []
    refused = 0
    for role, key in KEYS.items():
        told = await _all(redis, key)
        gone = []
        for name, sealed in told.items():
            process = judge(role, name, sealed, control_public, now_ms)
            if process is None:
                refused += 1
            elif process.silent_ms > FORGET_MS:
                gone.append(name)
            else:
                found.append(process)
        if gone:
            await redis.hdel(key, *gone)
    found.sort(key=lambda each: (each.role, each.beat.datacenter, each.beat.name))
    return FleetView(tuple(found), refused)


def judge(
    role: Role, name: bytes, sealed: bytes, control_public: bytes, now_ms: int
) -> Process | None:
    """Pure. None for a beat that its process did not sign, or that lies in another's place."""
    try:
        identity, beat = open_heartbeat(control_public, sealed, now_ms)
    except WireError as error:
        log.warning("heartbeat refused", role=role, reason=error.message)
        return None
    silent_ms = now_ms - beat.at_ms
    if identity.role is not role or beat.name.encode() != name or silent_ms < -SKEW_MS:
        log.warning("heartbeat refused", role=role, process=identity.name)
        return None
    return Process(role, beat, silent_ms <= STALE_MS, max(0, silent_ms))


async def _all(redis: Redis, key: str) -> dict[bytes, bytes]:
    """The hash; one that somebody blew up is not read."""
    if await redis.hlen(key) > MAX_PROCESSES:
        log.error("too many heartbeats", key=key, limit=MAX_PROCESSES)
        return {}
    return cast(dict[bytes, bytes], await redis.hgetall(key))
