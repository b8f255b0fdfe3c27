"""The requests a gateway holds: idempotency, attempt numbers, fencing, leases. Time is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prefill_fleet.pb import fleet_pb2
from prefill_fleet.snapshot import Rates
from prefill_wire.certificate import WorkerCertificate
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.billed import Billed, BilledIndex
from prefill_data.gateway.fleet import WorkerLink
from prefill_data.metering.record import BilledAttempt

MAX_OPEN_PER_TENANT = 256
MAX_UNBILLED_PER_TENANT = 1024  # with those that died
MAX_HELD_PER_TENANT = 16_384  # with those that are billed and may be asked for again, 0.7 KiB each
MAX_HELD = 131_072  # of all tenants: some 100 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What an attempt was admitted with; receipts are held to it. Times are Unix milliseconds.

    `codecs`: those that the catalogue allows; empty: any.
    """

    request_id: str
    attempt: int
    tenant: str
    key_id: str
    fencing_epoch: int
    token_count: int
    model: fleet_pb2.ServedModel
    codecs: tuple[str, ...]
    certificate: WorkerCertificate
    price_bound_micros: int
    rates: Rates
    deadline_at_ms: int
    expires_at_ms: int


@dataclass(slots=True)
class GatewayAttempt:
    """One attempt as its gateway sees it; `finished` resolves to the worker's last word.

    `release` tells the worker to free it. `billing` is there from the moment at which its receipt
    goes to disk: from then on it can no longer die.
    """

    admitted: Admitted
    accept: prefill_pb2.Accept
    link: WorkerLink
    finished: asyncio.Future[fleet_pb2.RunFinished]
    release: Callable[[], None]
    envelope: prefill_pb2.KeyEnvelope | None = None
    relay: asyncio.Task[None] | None = None
    prompted: bool = False
    death: DataPlaneError | None = None
    billing: asyncio.Task[BilledAttempt] | None = None

    @property
    def attempt(self) -> int:
        """Its number."""
        return self.admitted.attempt

    def fail(self, error: DataPlaneError) -> None:
        """End the attempt without a state, once; what is billed stays billed."""
        if self.death is not None or self.billing is not None:
            return
        self.death = error
        if self.relay is not None:
            self.relay.cancel()
        if not self.finished.done():
            self.finished.set_exception(error)
            self.finished.exception()  # somebody may never ask: that is no mistake
        self.release()


@dataclass(slots=True)
class Request:
    """One request of one tenant until it is billed; `opening` serialises its attempts.

    `route_reason` is why it is served here; `attempts` is the highest number given to any, also to
    one that no worker took.
    """

    request_id: str
    tenant: str
    idempotency_key: str
    body_digest: bytes
    route_reason: str = ""
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: GatewayAttempt | None = None
    attempts: int = 0

    @property
    def dead(self) -> bool:
        """Whether its last attempt came to nothing."""
        return self.current is not None and self.current.death is not None

    @property
    def open(self) -> bool:
        """Whether something of it runs, or waits to be claimed."""
        return self.current is None or (not self.dead and self.current.billing is None)


class RequestBook:
    """All requests, by id and by (tenant, idempotency key): another tenant's are not there."""

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, Request]] = {}
        self._by_key: dict[tuple[str, str], Request] = {}
        self._billed = BilledIndex()

    def __len__(self) -> int:
        return len(self._by_key) + len(self._billed)

    def same(
        self, tenant: str, idempotency_key: str, body_digest: bytes
    ) -> Request | Billed | None:
        """The request that this key opened before; IDEMPOTENCY_CONFLICT for another body."""
        request = self._by_key.get((tenant, idempotency_key)) or self._billed.opened(
            tenant, idempotency_key
        )
        if request is not None and request.body_digest != body_digest:
            raise DataPlaneError(
                StatusCode.IDEMPOTENCY_CONFLICT,
                f"the idempotency key of {request.request_id} came again with another body",
            )
        return request

    def holds(self, request: Request) -> bool:
        """Whether it is still here, and not billed."""
        return self._by_key.get((request.tenant, request.idempotency_key)) is request

    def add(self, request: Request) -> None:
        """Keep a new request; CAPACITY_EXHAUSTED when its tenant, or all, have too many."""
        held = self._tenants.get(request.tenant, {})
        if len(held) >= MAX_OPEN_PER_TENANT:  # else they need not be looked through
            _check_open(held.values())
        of_tenant = len(held) + self._billed.count(request.tenant)
        if of_tenant >= MAX_HELD_PER_TENANT or len(held) >= MAX_UNBILLED_PER_TENANT:
            self._make_room(held, of_tenant, MAX_HELD_PER_TENANT)
        if len(self) >= MAX_HELD:
            self._make_room(held, len(self), MAX_HELD)
        self._tenants.setdefault(request.tenant, {})[request.request_id] = request
        self._by_key[request.tenant, request.idempotency_key] = request

    def _make_room(self, held: Mapping[str, Request], count: int, limit: int) -> None:
        """Forget the oldest that died: what was billed is kept, or it would be billed again."""
        dead = next((each for each in held.values() if each.dead), None)
        if dead is None:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{count} requests whose lease still runs, the limit is {limit}",
                "send fewer requests, or open them with shorter deadlines",
                retry_after_ms=10_000,
            )
        self.forget(dead)

    def find(self, tenant: str, request_id: str, number: int) -> GatewayAttempt | Billed:
        """The current attempt; ATTEMPT_NOT_FOUND, or ATTEMPT_FENCED for an earlier number."""
        request = self._tenants.get(tenant, {}).get(request_id)
        current = request.current if request is not None else None
        found = current or self._billed.find(tenant, request_id)
        last = found.attempt if found is not None else 0
        if found is None or not 1 <= number <= last:
            raise DataPlaneError(
                StatusCode.ATTEMPT_NOT_FOUND, f"attempt {number} of {request_id[:40]!r} is unknown"
            )
        if number != last:
            raise DataPlaneError(
                StatusCode.ATTEMPT_FENCED,
                f"attempt {number} of {request_id} was replaced by {last}",
            )
        return found

    def request_of(self, admitted: Admitted) -> Request | None:
        """The request of an attempt that is not billed yet."""
        return self._tenants.get(admitted.tenant, {}).get(admitted.request_id)

    def bill(self, billed: Billed) -> None:
        """What is durable is asked of the spool from here on; also what an earlier run billed."""
        request = self._tenants.get(billed.tenant, {}).get(billed.request_id)
        if request is not None:
            self.forget(request)
        self._billed.add(billed)

    def forget(self, request: Request) -> None:
        """Drop a request."""
        held = self._tenants.get(request.tenant, {})
        if held.pop(request.request_id, None) is not None and not held:
            del self._tenants[request.tenant]
        if self.holds(request):
            del self._by_key[request.tenant, request.idempotency_key]

    def expire(self, now_ms: int) -> None:
        """End attempts beyond their deadline, drop requests beyond their lease."""
        self._billed.expire(now_ms)
        for request in list(self._by_key.values()):
            attempt = request.current
            if attempt is None or request.opening.locked():
                continue
            admitted = attempt.admitted
            if now_ms >= admitted.expires_at_ms:
                attempt.fail(_over(StatusCode.LEASE_EXPIRED, admitted))
                self.forget(request)
            elif now_ms >= admitted.deadline_at_ms and not attempt.finished.done():
                attempt.fail(_over(StatusCode.DEADLINE_EXCEEDED, admitted))


def _check_open(held: Iterable[Request]) -> None:
    open_now = sum(1 for each in held if each.open)
    if open_now >= MAX_OPEN_PER_TENANT:
        raise DataPlaneError(
            StatusCode.CAPACITY_EXHAUSTED,
            f"{open_now} requests are open for this account at this gateway, "
            f"the limit is {MAX_OPEN_PER_TENANT}",
            "claim or cancel some, then try again",
            retry_after_ms=1000,
        )


def _over(code: StatusCode, admitted: Admitted) -> DataPlaneError:
    return DataPlaneError(
        code, f"the time of attempt {admitted.attempt} of {admitted.request_id} is over"
    )
