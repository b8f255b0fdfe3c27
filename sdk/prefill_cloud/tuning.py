"""The SDK's own limits and patience, in one place; none of them changes what a state is."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefill_cloud.clock import Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Defaults are for a WAN: 30 ms of round trip, chunks of at most 4 MiB.

    `call_seconds`: patience with all tries of Open, and with each try of Claim; a prompt's upload
    and queueing may take until the deadline.
    `stall_seconds`: silence after which a data connection is dropped; workers send progress
    more often. `window_chunks`: chunks asked for ahead on one connection.
    `read_bytes`: bytes buffered of one connection before its socket is left to fill up.
    """

    call_seconds: float = 10.0
    cancel_seconds: float = 0.5
    connect_seconds: float = 5.0
    stall_seconds: float = 10.0
    open_tries: int = 3
    reconnects: int = 6
    window_chunks: int = 8
    read_bytes: int = 1 << 20
    redirects: int = 2
    backoff: Backoff = field(default_factory=Backoff)
