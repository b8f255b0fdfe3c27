"""Claim: hold the worker's receipt to what was admitted, make it durable, then release."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from prefill_fleet.pb import fleet_pb2
from prefill_wire.pb import prefill_pb2
from prefill_wire.receipt import UsageReceipt, verify_receipt
from prefill_wire.status import StatusCode
from prometheus_client import Gauge

from prefill_data.errors import DataPlaneError
from prefill_data.failpoints import Failpoints
from prefill_data.gateway.billed import Billed
from prefill_data.gateway.metrics import GatewayMetrics
from prefill_data.gateway.requests import Admitted, GatewayAttempt, RequestBook
from prefill_data.metering.commits import GroupCommit
from prefill_data.metering.record import BilledAttempt, amount_micros
from prefill_data.metering.spool import Place, Spool, SpoolLost

log = structlog.get_logger()
MAX_SKEW_MS = 300_000  # of a worker's clock before ours, as the control plane has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """Who is told what happens to a bill; `spool_lost` ends the process."""

    failpoints: Failpoints
    metrics: GatewayMetrics
    spool_lost: Callable[[], None]


class Claims:
    """Delivered and billed are one event: no manifest leaves before its receipt is on disk."""

    def __init__(
        self, spool: Spool, book: RequestBook, billing: Billing, now_ms: Callable[[], int]
    ) -> None:
        self._spool, self._book = spool, book
        self._billing, self._now_ms = billing, now_ms
        self._commits = GroupCommit(spool)
        Gauge(
            "prefill_gateway_spool_bytes",
            "Receipts that are kept: not shipped, or claimable again",
            registry=billing.metrics.registry,
        ).set_function(lambda: spool.durable_bytes - spool.oldest_bytes)

    async def answer(
        self, found: GatewayAttempt | Billed, asked: prefill_pb2.ClaimRequest
    ) -> BilledAttempt:
        """Bill what is not billed; else what this claim was answered before, perhaps by a run of
        this gateway that died."""
        if isinstance(found, GatewayAttempt):
            return await self._claim(found, asked)
        billed = await self.record(found)
        if (asked.root, asked.chunk_count) != (billed.root, billed.chunk_count):
            raise _mismatch(asked)
        return billed

    async def record(self, found: Billed) -> BilledAttempt:
        """What is durable of an attempt, read from disk; LEASE_EXPIRED when its lease is over."""
        if self._now_ms() >= found.expires_at_ms:
            raise DataPlaneError(
                StatusCode.LEASE_EXPIRED, f"the lease of {found.request_id} is over"
            )
        return BilledAttempt.decode(await asyncio.to_thread(self._spool.read, found.place))

    async def opened(self, found: Billed) -> prefill_pb2.Accept:
        """The answer to the Open of a billed attempt."""
        return prefill_pb2.Accept.FromString((await self.record(found)).accept)

    async def prompted(self, found: Billed) -> prefill_pb2.KeyEnvelope:
        """The answer to the Prompt of a billed attempt."""
        return prefill_pb2.KeyEnvelope.FromString((await self.record(found)).envelope)

    async def _claim(
        self, attempt: GatewayAttempt, asked: prefill_pb2.ClaimRequest
    ) -> BilledAttempt:
        """Bill once; whoever claims the same attempt at the same time gets the same answer."""
        finished = await self._finished(attempt)
        if (asked.root, asked.chunk_count) != (finished.root, finished.chunk_count):
            raise _mismatch(asked)
        if attempt.billing is None:
            attempt.billing = self._begin(attempt, finished)
        # Shielded: a caller that leaves now must not leave the record half known.
        billed = await asyncio.shield(attempt.billing)
        self._billing.failpoints.hit("gateway.claim.before_release")
        return billed

    def _begin(
        self, attempt: GatewayAttempt, finished: fleet_pb2.RunFinished
    ) -> asyncio.Task[BilledAttempt]:
        """From here on the attempt is billed or nothing is: no await lies between the checks."""
        if attempt.death is not None:
            raise attempt.death
        admitted = attempt.admitted
        receipt = verify_receipt(admitted.certificate.public_key, finished.receipt)
        check_receipt(receipt, admitted, finished.root)
        check_countable(receipt, admitted, self._now_ms())
        self._billing.failpoints.hit("gateway.claim.before_durable")
        task = asyncio.create_task(
            self._make_durable(attempt, self._bill(attempt, finished, receipt))
        )
        task.add_done_callback(_heard)
        return task

    async def _make_durable(self, attempt: GatewayAttempt, billed: BilledAttempt) -> BilledAttempt:
        billing = self._billing
        try:
            place = await self._commits.append(billed.encode(), billed.expires_at_ms)
        except SpoolLost:
            billing.spool_lost()
            raise
        except BaseException:
            attempt.billing = None  # nothing is on disk: the claim may come again
            raise
        billing.failpoints.hit("gateway.claim.after_durable")
        self._book.bill(entry_of(billed, place))
        billing.metrics.receipts.inc()
        billing.metrics.tokens.inc(attempt.admitted.token_count)
        log.info("billed", tenant=billed.tenant, amount_micros=billed.amount_micros,
                 request_id=billed.request_id)  # fmt: skip
        attempt.release()
        return billed

    async def _finished(self, attempt: GatewayAttempt) -> fleet_pb2.RunFinished:
        """The worker's last word; an SDK may hold every chunk a moment before it is here."""
        if attempt.finished.done():
            return attempt.finished.result()
        left_ms = attempt.admitted.deadline_at_ms - self._now_ms()
        try:
            async with asyncio.timeout(max(0, left_ms) / 1000):
                return await asyncio.shield(attempt.finished)
        except TimeoutError:
            raise DataPlaneError(
                StatusCode.DEADLINE_EXCEEDED, "the prefill is not finished by the deadline"
            ) from None

    def _bill(
        self, attempt: GatewayAttempt, finished: fleet_pb2.RunFinished, receipt: UsageReceipt
    ) -> BilledAttempt:
        admitted, request = attempt.admitted, self._book.request_of(attempt.admitted)
        envelope = attempt.envelope
        return BilledAttempt(
            request_id=admitted.request_id,
            attempt=admitted.attempt,
            tenant=admitted.tenant,
            key_id=admitted.key_id,
            root=finished.root,
            chunk_count=finished.chunk_count,
            sealed_manifest=finished.sealed_manifest,
            receipt=finished.receipt,
            amount_micros=amount_micros(
                admitted.token_count, receipt.cached_tokens, admitted.rates
            ),
            expires_at_ms=admitted.expires_at_ms,
            certificate=attempt.accept.worker_certificate,
            idempotency_key=request.idempotency_key if request is not None else "",
            body_digest=request.body_digest if request is not None else b"",
            route_reason=request.route_reason if request is not None else "",
            accept=attempt.accept.SerializeToString(),
            envelope=envelope.SerializeToString() if envelope is not None else b"",
        )

    def close(self) -> None:
        """Finish what is being written."""
        self._commits.close()


def open_spool(folder: Path, book: RequestBook, now_ms: int, segment_bytes: int) -> Spool:
    """The folder's spool; those of its records whose lease still runs are in the book again."""

    def recall(place: Place, body: bytes) -> int:
        billed = BilledAttempt.decode(body)
        if now_ms < billed.expires_at_ms:
            book.bill(entry_of(billed, place))
        return billed.expires_at_ms

    return Spool(folder, recall, segment_bytes)


def entry_of(billed: BilledAttempt, place: Place) -> Billed:
    """What stays in memory of a record."""
    return Billed(
        tenant=sys.intern(billed.tenant),
        request_id=billed.request_id,
        attempt=billed.attempt,
        idempotency_key=billed.idempotency_key,
        body_digest=billed.body_digest,
        expires_at_ms=billed.expires_at_ms,
        place=place,
    )


def check_receipt(receipt: UsageReceipt, admitted: Admitted, root: bytes) -> None:
    """RECEIPT_REFUSED unless the worker bills what was admitted, and nothing else."""
    model, certificate = admitted.model, admitted.certificate
    state_bytes = model.state_bytes_fixed + model.state_bytes_per_token * (admitted.token_count - 1)
    pairs = {
        "request": (receipt.request_id, admitted.request_id),
        "attempt": (receipt.attempt, admitted.attempt),
        "fencing epoch": (receipt.fencing_epoch, admitted.fencing_epoch),
        "tenant": (receipt.tenant, admitted.tenant),
        "key": (receipt.key_id, admitted.key_id),
        "model": (receipt.model, model.name),
        "fingerprint": (receipt.model_fingerprint, model.fingerprint),
        "worker": (receipt.worker_id, certificate.worker_id),
        "datacenter": (receipt.datacenter, certificate.datacenter),
        "token count": (receipt.token_count, admitted.token_count),
        "state bytes": (receipt.state_bytes_raw, state_bytes),
        "root": (receipt.root, root),
    }
    for thing, (billed, wanted) in pairs.items():
        if billed != wanted:
            raise DataPlaneError(
                StatusCode.RECEIPT_REFUSED, f"the worker's receipt names another {thing}"
            )
    if receipt.cached_tokens > receipt.token_count:
        raise DataPlaneError(
            StatusCode.RECEIPT_REFUSED,
            f"{receipt.cached_tokens} cached tokens of {receipt.token_count}",
        )


def check_countable(receipt: UsageReceipt, admitted: Admitted, now_ms: int) -> None:
    """RECEIPT_REFUSED for what the control plane would not count: nothing is released for it."""
    fault = _uncountable(receipt, admitted.certificate.not_after_ms, now_ms)
    if fault:
        raise DataPlaneError(
            StatusCode.RECEIPT_REFUSED,
            f"the worker's receipt could not be counted: {fault}",
            "operators: look at the worker's clock and certificate",
        )


def _uncountable(receipt: UsageReceipt, until_ms: int, now_ms: int) -> str:
    finished_ms = receipt.finished_at_ms
    if receipt.started_at_ms > finished_ms:
        return f"{receipt.started_at_ms} ms is after its end, {finished_ms}"
    if finished_ms > now_ms + MAX_SKEW_MS:
        return f"it ends at {finished_ms} ms, now is {now_ms}"
    if finished_ms >= until_ms:
        return f"it ends at {finished_ms} ms, the worker's certificate at {until_ms}"
    return "" if receipt.receipt_id else "it names no receipt"


def _heard(task: asyncio.Task[BilledAttempt]) -> None:
    """Its caller may have left: a failure is told here, whoever else hears it."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("claim failed", reason=str(error))


def _mismatch(asked: prefill_pb2.ClaimRequest) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.ROOT_MISMATCH,
        f"the root over {asked.chunk_count} chunks of {asked.request_id} is not the worker's",
    )
