"""What is said about the fleet over HTTP."""

from __future__ import annotations

import datetime as dt

import msgspec
from prefill_fleet.heartbeat import Heartbeat, LinkEstimate

from prefill_control.fleet.service import Process

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """The way from a gateway's datacenter to another one; 0 Mbit/s: not measured."""

    to: str
    live: bool
    rtt_ms: float
    mbps: float

    @classmethod
    def of(cls, link: LinkEstimate) -> LinkView:
        """From a heartbeat."""
        return cls(to=link.to, live=link.live, rtt_ms=link.rtt_ms, mbps=link.mbps)


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker or gateway as it told last; `state` is live or stale."""

    role: str
    name: str
    datacenter: str
    state: str
    silent_ms: int
    version: str
    endpoint: str
    started_at: dt.datetime
    attempts_in_flight: int
    memory_used_bytes: int
    memory_cap_bytes: int
    live_workers: int
    requests_held: int
    snapshot_version: int
    models: list[str]
    links: list[LinkView]

    @classmethod
    def of(cls, process: Process) -> ProcessView:
        """From the service's answer."""
        beat: Heartbeat = process.beat
        return cls(
            role=process.role,
            name=beat.name,
            datacenter=beat.datacenter,
            state="live" if process.live else "stale",
            silent_ms=process.silent_ms,
            version=beat.version,
            endpoint=beat.endpoint,
            started_at=EPOCH + dt.timedelta(milliseconds=beat.started_at_ms),
            attempts_in_flight=beat.attempts_in_flight,
            memory_used_bytes=beat.memory_used_bytes,
            memory_cap_bytes=beat.memory_cap_bytes,
            live_workers=beat.live_workers,
            requests_held=beat.requests_held,
            snapshot_version=beat.snapshot_version,
            models=list(beat.models),
            links=[LinkView.of(link) for link in beat.links],
        )
