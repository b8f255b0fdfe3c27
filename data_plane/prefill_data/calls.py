"""How many calls a gRPC server takes at a time, and for how long it keeps a silent connection.

No tenant holds more than its share of the places, so that others find room however long its calls
last; calls of which nobody knows yet whose they are have places of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from prefill_wire.limits import GRPC_MAX_MESSAGE_BYTES
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_BYTES),
)
RETRY_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """`most` calls of all tenants together are refused beyond, typed, and of one tenant
    `most_a_tenant` of them; `most_unproven`, whose key is not checked yet, come beside. Those of
    one connection beyond `most_a_connection` wait at their client, connections beyond
    `most_connections` are closed at once, and one that has said nothing of gRPC within
    `handshake_seconds` too: descriptors are for the spool as well. A peer that is silent for
    `silence_seconds` is asked whether it is there and dropped without an answer; one that asks
    more often than every `least_ping_seconds` is dropped too."""

    most: int = 2048
    most_a_tenant: int = 512  # two for each of the 256 requests that it may have open
    most_unproven: int = 256
    most_a_connection: int = 1024
    most_connections: int = 4096
    handshake_seconds: int = 10
    silence_seconds: int = 60
    answer_seconds: int = 20
    least_ping_seconds: int = 10

    def options(self) -> tuple[tuple[str, int], ...]:
        """As a gRPC server takes them."""
        return (
            *CHANNEL_OPTIONS,
            # Else two servers on one port share its connections instead of one failing.
            ("grpc.so_reuseport", 0),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.max_concurrent_streams", self.most_a_connection),
            ("grpc.max_allowed_incoming_connections", self.most_connections),
            ("grpc.server_handshake_timeout_ms", 1000 * self.handshake_seconds),
            ("grpc.keepalive_time_ms", 1000 * self.silence_seconds),
            ("grpc.keepalive_timeout_ms", 1000 * self.answer_seconds),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000 * self.least_ping_seconds),
        )


USUAL = CallLimits()


class Shares:
    """Places of tenants: at most `most` in all, and `most_a_tenant` of one."""

    def __init__(self, most: int, most_a_tenant: int) -> None:
        self._most, self._most_a_tenant = most, most_a_tenant
        self.taken = 0
        self._tenants: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """Those that a tenant holds."""
        return self._tenants.get(tenant, 0)

    def take(self, tenant: str) -> None:
        """One more for a tenant; CAPACITY_EXHAUSTED when it, or all, have too many."""
        if self.taken >= self._most:
            raise _too_many(f"{self.taken} calls are", self._most, "PREFILL_MAX_CALLS")
        held = self.of(tenant)
        if held >= self._most_a_tenant:
            name = "PREFILL_MAX_CALLS_A_TENANT"
            raise _too_many(f"{held} calls of this account are", self._most_a_tenant, name)
        self.taken += 1
        self._tenants[tenant] = held + 1

    def free(self, tenant: str) -> None:
        """One of a tenant's is free again."""
        self.taken -= 1
        left = self._tenants[tenant] - 1
        if left:
            self._tenants[tenant] = left
        else:
            del self._tenants[tenant]


class CallCount:
    """The calls under way of one server: `unproven` ones, whose key is not checked yet, those whose
    message is on its way, and those that are answered. The latter two do not count to each other:
    what frees something is read however many calls wait."""

    def __init__(self, most: int, most_a_tenant: int = 0, most_unproven: int = 0) -> None:
        """0: as many as `most`."""
        most_a_tenant = most_a_tenant or most
        self._most_unproven = most_unproven or most
        self._most_untaken = 2 * most_a_tenant  # those of its calls, and of what is always taken
        self.unproven = 0
        self.reading, self.answering = Shares(most, most_a_tenant), Shares(most, most_a_tenant)
        self._untaken: dict[str, int] = {}

    @property
    def under_way(self) -> int:
        """Calls that are answered now."""
        return self.answering.taken

    def place(self, *, always: bool = False) -> Place:
        """For one call, which holds it while it is entered; one that is short and frees what
        others hold is `always` taken."""
        return Place(self, always)

    def of(self, tenant: str) -> int:
        """Calls of a tenant that are answered now."""
        return self.answering.of(tenant)

    def untaken(self, tenant: str) -> int:
        """Answers to a tenant that lie here, since their peers do not read them."""
        return self._untaken.get(tenant, 0)

    def refuse_untaken(self, tenant: str) -> None:
        """CAPACITY_EXHAUSTED while a tenant takes too few of its answers: they lie in memory."""
        untaken = self.untaken(tenant)
        if untaken >= self._most_untaken:
            what = f"{untaken} answers to this account, which nobody reads, are"
            raise _too_many(what, self._most_untaken, "PREFILL_MAX_CALLS_A_TENANT")

    def answer(self, tenant: str) -> Callable[[object], None]:
        """An answer to a tenant is on its way; to be called once it is taken or its peer left."""
        self._untaken[tenant] = self.untaken(tenant) + 1
        return partial(self._taken, tenant)

    def _taken(self, tenant: str, _context: object) -> None:
        left = self._untaken[tenant] - 1
        if left:
            self._untaken[tenant] = left
        else:
            del self._untaken[tenant]

    def begin(self, always: bool) -> None:
        """One more unproven call; CAPACITY_EXHAUSTED when there are too many."""
        if self.unproven >= self._most_unproven and not always:
            raise _too_many(f"{self.unproven} calls are", self._most_unproven, "PREFILL_MAX_CALLS")
        self.unproven += 1


class Place:
    """What one call holds of a count until it is over: an unproven place, then one of its tenant's
    while its message is read, then another while it is answered, or none when it is always taken.
    """

    __slots__ = ("_always", "_count", "_shares", "_unproven", "caller")

    def __init__(self, count: CallCount, always: bool) -> None:
        self._count, self._always = count, always
        self._unproven = False
        self._shares: Shares | None = None
        self.caller = ""  # the tenant, also of a call that is always taken

    def __enter__(self) -> Self:
        self._count.begin(self._always)
        self._unproven = True
        return self

    def reads(self, tenant: str) -> None:
        """Its key was checked, and its message comes; CAPACITY_EXHAUSTED beyond the share."""
        self._move(self._count.reading, tenant)

    def belongs_to(self, tenant: str, *, always: bool = False) -> None:
        """It is a tenant's, and all of it is here; CAPACITY_EXHAUSTED beyond the share."""
        self._count.refuse_untaken(tenant)
        self._move(None if always or self._always else self._count.answering, tenant)

    def _move(self, shares: Shares | None, tenant: str) -> None:
        if shares is not None:
            shares.take(tenant)
        self._leave()
        self._shares, self.caller = shares, tenant

    def _leave(self) -> None:
        if self._unproven:
            self._count.unproven -= 1
            self._unproven = False
        elif self._shares is not None:
            self._shares.free(self.caller)
            self._shares = None

    def answered(self) -> Callable[[object], None] | None:
        """What is to be called once the call's answer is taken; None for one of no tenant's."""
        return self._count.answer(self.caller) if self.caller else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()


def _too_many(what: str, limit: int, setting: str) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.CAPACITY_EXHAUSTED,
        f"{what} under way here, the limit is {limit}",
        f"end some, or try again later; operators: add a process, or raise {setting}",
        retry_after_ms=RETRY_MS,
    )
