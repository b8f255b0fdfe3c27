"""Workers and gateways as they told last; for operators."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from prefill_cloud.manage.calls import Rows, View, listing
from prefill_cloud.manage.verbs import M, Noun, list_verb


class FleetLink(View, frozen=True, kw_only=True):
    """The way to another datacenter; 0 Mbit/s: not measured."""

    to: str
    live: bool
    rtt_ms: float
    mbps: float


class FleetProcess(View, frozen=True, kw_only=True):
    """One worker or gateway; `state` is live or stale."""

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
    models: Sequence[str]
    links: Sequence[FleetLink]


class Fleet(Noun[M]):
    """`client.fleet`."""

    @list_verb("listFleet")
    def list(self, *, role: str = "", datacenter: str = "") -> Rows[FleetProcess]:
        """Gateways, then workers, by datacenter and name."""
        return listing(FleetProcess, "fleet", {"role": role, "datacenter": datacenter})
