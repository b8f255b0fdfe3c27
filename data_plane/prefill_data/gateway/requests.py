"""The requests a gateway holds: idempotency, attempt numbers, fencing, leases. Time is given."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from prefill_fleet.pb import fleet_pb2
from prefill_wire.certificate import WorkerCertificate
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.fleet import WorkerLink

MAX_REQUESTS_PER_TENANT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What an attempt was admitted with; receipts are held to it. Times are Unix milliseconds."""

    request_id: str
    attempt: int
    tenant: str
    key_id: str
    fencing_epoch: int
    token_count: int
    model: fleet_pb2.ServedModel
    certificate: WorkerCertificate
    price_bound_micros: int
    deadline_at_ms: int
    expires_at_ms: int


@dataclass(slots=True)
class GatewayAttempt:
    """One attempt as its gateway sees it; `finished` resolves to the worker's last word."""

    admitted: Admitted
    accept: prefill_pb2.Accept
    link: WorkerLink
    finished: asyncio.Future[fleet_pb2.RunFinished]
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    envelope: prefill_pb2.KeyEnvelope | None = None
    relay: asyncio.Task[None] | None = None
    prompted: bool = False

    def fail(self, error: DataPlaneError) -> None:
        """End the attempt without a state; claims hear why."""
        if self.relay is not None:
            self.relay.cancel()
        if not self.finished.done():
            self.finished.set_exception(error)
            self.finished.exception()  # somebody may never ask: that is no mistake

    @property
    def dead(self) -> bool:
        """Whether no state will come of it."""
        return self.finished.done() and self.finished.exception() is not None


@dataclass(slots=True)
class Request:
    """One request of one tenant, whatever became of its attempts; `opening` serialises them."""

    request_id: str
    tenant: str
    idempotency_key: str
    body_digest: bytes
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: GatewayAttempt | None = None
    attempts: int = 0


class RequestBook:
    """All requests, by id and by (tenant, idempotency key): another tenant's are not there."""

    def __init__(self) -> None:
        self._by_id: dict[tuple[str, str], Request] = {}
        self._by_key: dict[tuple[str, str], Request] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def same(self, tenant: str, idempotency_key: str, body_digest: bytes) -> Request | None:
        """The request that this key opened before; IDEMPOTENCY_CONFLICT for another body."""
        request = self._by_key.get((tenant, idempotency_key))
        if request is not None and request.body_digest != body_digest:
            raise DataPlaneError(
                StatusCode.IDEMPOTENCY_CONFLICT,
                f"the idempotency key of {request.request_id} came again with another body",
            )
        return request

    def add(self, request: Request) -> None:
        """Keep a new request; CAPACITY_EXHAUSTED when its tenant holds too many."""
        held = sum(1 for tenant, _ in self._by_id if tenant == request.tenant)
        if held >= MAX_REQUESTS_PER_TENANT:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{held} requests are open, the limit is {MAX_REQUESTS_PER_TENANT}",
                "claim or cancel some, then try again",
                retry_after_ms=1000,
            )
        self._by_id[request.tenant, request.request_id] = request
        self._by_key[request.tenant, request.idempotency_key] = request

    def find(self, tenant: str, request_id: str, number: int) -> GatewayAttempt:
        """The current attempt; ATTEMPT_NOT_FOUND, or ATTEMPT_FENCED for an earlier number."""
        request = self._by_id.get((tenant, request_id))
        if request is None or request.current is None or not 1 <= number <= request.attempts:
            raise DataPlaneError(
                StatusCode.ATTEMPT_NOT_FOUND, f"attempt {number} of {request_id[:40]!r} is unknown"
            )
        if number != request.attempts:
            raise DataPlaneError(
                StatusCode.ATTEMPT_FENCED,
                f"attempt {number} of {request_id} was replaced by {request.attempts}",
            )
        return request.current

    def forget(self, request: Request) -> None:
        """Drop a request."""
        self._by_id.pop((request.tenant, request.request_id), None)
        self._by_key.pop((request.tenant, request.idempotency_key), None)

    def expire(self, now_ms: int) -> list[GatewayAttempt]:
        """End attempts beyond their deadline, drop requests beyond their lease.

        Returns the attempts whose worker has to be told.
        """
        over: list[GatewayAttempt] = []
        for request in list(self._by_id.values()):
            attempt = request.current
            if attempt is None:
                continue
            admitted = attempt.admitted
            if now_ms >= admitted.expires_at_ms:
                attempt.fail(_over(StatusCode.LEASE_EXPIRED, admitted))
                self.forget(request)
                over.append(attempt)
            elif now_ms >= admitted.deadline_at_ms and not attempt.finished.done():
                attempt.fail(_over(StatusCode.DEADLINE_EXCEEDED, admitted))
                over.append(attempt)
        return over


def _over(code: StatusCode, admitted: Admitted) -> DataPlaneError:
    return DataPlaneError(
        code, f"the time of attempt {admitted.attempt} of {admitted.request_id} is over"
    )
