"""How many calls a gRPC server takes at a time, and for how long it keeps a silent connection.

No tenant holds more than its share of the places, so that others find room however long its calls
last; calls of which nobody knows yet whose they are have places of their own.
"""

from __future__ import annotations

from collections import Counter
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
    one connection beyond `most_a_connection` wait at their client. A peer that is silent for
    `silence_seconds` is asked whether it is there and dropped without an answer; one that asks
    more often than every `least_ping_seconds` is dropped too."""

    most: int = 2048
    most_a_tenant: int = 512  # two for each of the 256 requests that it may have open
    most_unproven: int = 256
    most_a_connection: int = 1024
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
            ("grpc.keepalive_time_ms", 1000 * self.silence_seconds),
            ("grpc.keepalive_timeout_ms", 1000 * self.answer_seconds),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000 * self.least_ping_seconds),
        )


USUAL = CallLimits()


class CallCount:
    """The calls under way of one server: of tenants, and those that are `unproven` so far. A server
    that asks for no tenant's key has only the latter."""

    def __init__(self, most: int, most_a_tenant: int = 0, most_unproven: int = 0) -> None:
        """0: as many as `most`."""
        self._most = most
        self._most_a_tenant, self._most_unproven = most_a_tenant or most, most_unproven or most
        self.under_way, self.unproven = 0, 0
        self._tenants: dict[str, int] = {}
        self._untaken: Counter[str] = Counter()

    def place(self, *, always: bool = False) -> Place:
        """For one call, which holds it while it is entered; one that is short and frees what
        others hold is `always` taken."""
        return Place(self, always)

    def of(self, tenant: str) -> int:
        """The places that a tenant holds."""
        return self._tenants.get(tenant, 0)

    def untaken(self, tenant: str) -> int:
        """Answers to a tenant that lie here, since their peers do not read them."""
        return self._untaken[tenant]

    def answered(self, tenant: str) -> Callable[[object], None]:
        """An answer to a tenant is on its way; to be called once it is taken or its peer left."""
        self._untaken[tenant] += 1
        return partial(self._taken, tenant)

    def _taken(self, tenant: str, _context: object) -> None:
        self._untaken[tenant] -= 1
        if not self._untaken[tenant]:
            del self._untaken[tenant]

    def begin(self, always: bool) -> None:
        """One more unproven call; CAPACITY_EXHAUSTED when there are too many."""
        if self.unproven >= self._most_unproven and not always:
            raise _too_many(f"{self.unproven} calls are", self._most_unproven, "PREFILL_MAX_CALLS")
        self.unproven += 1

    def refuse_untaken(self, tenant: str) -> None:
        """CAPACITY_EXHAUSTED while a tenant takes too few of its answers: they lie in memory."""
        most = 2 * self._most_a_tenant  # those of its calls, and as many of what is always taken
        if self._untaken[tenant] >= most:
            what = f"{self._untaken[tenant]} answers to this account, which nobody reads, are"
            raise _too_many(what, most, "PREFILL_MAX_CALLS_A_TENANT")

    def prove(self, tenant: str) -> None:
        """An unproven call turned out to be a tenant's; CAPACITY_EXHAUSTED when too many are."""
        if self.under_way >= self._most:
            raise _too_many(f"{self.under_way} calls are", self._most, "PREFILL_MAX_CALLS")
        held = self.of(tenant)
        if held >= self._most_a_tenant:
            name = "PREFILL_MAX_CALLS_A_TENANT"
            raise _too_many(f"{held} calls of this account are", self._most_a_tenant, name)
        self.under_way += 1
        self._tenants[tenant] = held + 1

    def end(self, tenant: str) -> None:
        """A tenant's call is over."""
        self.under_way -= 1
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class Place:
    """What one call holds of a count until it is over: first an unproven place, then one of its
    tenant's, or none when it is always taken."""

    __slots__ = ("_always", "_count", "_tenant", "_unproven", "caller")

    def __init__(self, count: CallCount, always: bool) -> None:
        self._count, self._always = count, always
        self._tenant, self._unproven = "", False
        self.caller = ""  # the tenant, also of a call that is always taken

    def __enter__(self) -> Self:
        self._count.begin(self._always)
        self._unproven = True
        return self

    def belongs_to(self, tenant: str, *, always: bool = False) -> None:
        """Its key was checked, once; CAPACITY_EXHAUSTED beyond the tenant's share, or `most`."""
        self._count.refuse_untaken(tenant)
        if not (always or self._always):
            self._count.prove(tenant)
            self._tenant = tenant
        self._count.unproven -= 1
        self._unproven, self.caller = False, tenant

    def answered(self) -> Callable[[object], None] | None:
        """What is to be called once the call's answer is taken; None for one of no tenant's."""
        return self._count.answered(self.caller) if self.caller else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._unproven:
            self._count.unproven -= 1
        elif self._tenant:
            self._count.end(self._tenant)


def _too_many(what: str, limit: int, setting: str) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.CAPACITY_EXHAUSTED,
        f"{what} under way here, the limit is {limit}",
        f"end some, or try again later; operators: add a process, or raise {setting}",
        retry_after_ms=RETRY_MS,
    )
