"""What workers and gateways tell about themselves every two seconds."""

from __future__ import annotations

from prefill_wire.errors import IdentityError

from prefill_fleet.credential import Credential, Identity, Role, open_sealed, seal
from prefill_fleet.documents import Document, decode, encode

MAX_HEARTBEAT_BYTES = 16 << 10
BEAT_SECONDS = 2.0
STALE_MS = 10_000  # five beats missed
_DOMAIN = "heartbeat"


class LinkEstimate(Document, frozen=True, kw_only=True):
    """What a gateway measured on the way to another place."""

    to: str
    live: bool
    rtt_ms: float
    mbps: float = 0.0


class Heartbeat(Document, frozen=True, kw_only=True):
    """Load, version, memory, links of one process; `at_ms` and `started_at_ms` are Unix times."""

    name: str
    datacenter: str
    version: str
    at_ms: int
    started_at_ms: int
    endpoint: str
    attempts_in_flight: int = 0
    memory_used_bytes: int = 0
    memory_cap_bytes: int = 0
    live_workers: int = 0
    requests_held: int = 0
    snapshot_version: int = 0
    models: tuple[str, ...] = ()
    links: tuple[LinkEstimate, ...] = ()


def seal_heartbeat(credential: Credential, beat: Heartbeat) -> bytes:
    """Signed by the process that it speaks of."""
    return seal(credential, _DOMAIN, encode(beat))


def open_heartbeat(control_public: bytes, sealed: bytes, now_ms: int) -> tuple[Identity, Heartbeat]:
    """The beat and who sent it; WireError when it speaks of another process."""
    identity, body = open_sealed(control_public, _DOMAIN, sealed, now_ms, MAX_HEARTBEAT_BYTES)
    beat = decode(body, Heartbeat, MAX_HEARTBEAT_BYTES)
    if (beat.name, beat.datacenter) != (identity.name, identity.datacenter):
        raise IdentityError(f"{identity.name} sent the heartbeat of {beat.name[:64]}")
    return identity, beat


__all__ = [
    "BEAT_SECONDS",
    "MAX_HEARTBEAT_BYTES",
    "STALE_MS",
    "Heartbeat",
    "LinkEstimate",
    "Role",
    "open_heartbeat",
    "seal_heartbeat",
]
