"""Brings the spool's receipts to the control plane: at least once, which counts once there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from prefill_wire.limits import MAX_RECEIPT_BYTES
from prometheus_client import CollectorRegistry, Counter, Gauge

from prefill_data.errors import DataPlaneError
from prefill_data.metering.frames import Frame
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import Spool
from prefill_data.metering.tail import (
    Damage,
    Stretch,
    keep_refused,
    read_stretch,
    save_mark,
    set_aside,
    settle_mark,
)

log = structlog.get_logger()
MAX_LINES = 64
BATCH_BYTES = 512 << 10  # receipts with certificates; the receiver takes twice as much in base64
LOOK_SECONDS = 1.0
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the control plane made of one receipt: accepted, duplicate or refused; all are final."""

    receipt_id: str
    fate: str
    reason: str = ""


class BatchRefused(Exception):
    """The control plane will not take this batch as it is, however often it comes."""


class Courier(Protocol):
    """Carries a batch and brings the verdicts back, one a receipt, in order."""

    async def deliver(self, batch: Sequence[BilledAttempt]) -> list[Verdict]:
        """Raises BatchRefused, or OSError when it is worth trying again."""


class Shipper:
    """One gateway's; it alone moves the mark, and has the spool delete what lies below it.

    Receipts that are refused are logged, counted and kept in a file of their own, since their
    segment goes. What has become unreadable is set aside: it holds up nothing behind it.
    """

    def __init__(
        self,
        spool: Spool,
        courier: Courier,
        registry: CollectorRegistry,
        now_ms: Callable[[], int],
    ) -> None:
        self._spool, self._courier, self._now_ms = spool, courier, now_ms
        self._mark_bytes: int | None = None  # until it was held to the spool
        self._shipped = Counter(
            "prefill_gateway_receipts_shipped", "Verdicts by fate", ["fate"], registry=registry
        )
        self._damaged = Counter(
            "prefill_gateway_spool_damaged",
            "Stretches of the spool that were set aside, unreadable",
            registry=registry,
        )
        Gauge(
            "prefill_gateway_receipts_unshipped_bytes", "Spool beyond the mark", registry=registry
        ).set_function(self._unshipped_bytes)

    def _unshipped_bytes(self) -> int:
        mark = self._spool.oldest_bytes if self._mark_bytes is None else self._mark_bytes
        return max(0, self._spool.durable_bytes - mark)

    async def ship(self) -> int:
        """Bring one batch; how many records it had, or 1 for damage (0: nothing is left)."""
        spool = self._spool
        if self._mark_bytes is None:
            self._mark_bytes = await asyncio.to_thread(
                settle_mark, spool.folder, spool.durable_bytes
            )
        durable_bytes = spool.durable_bytes
        if self._mark_bytes == durable_bytes:
            await asyncio.to_thread(spool.retire, durable_bytes, self._now_ms())  # leases end
            return 0
        found = await asyncio.to_thread(read_stretch, spool.folder, self._mark_bytes, durable_bytes)
        if isinstance(found, Damage):
            await self._set_aside(found)
            return 1
        batch, taken = self._first_of(found)
        refused = sum(len(frame.bodies) for frame in taken.frames) > len(batch)
        for verdict in await self._verdicts(batch):
            self._shipped.labels(fate=verdict.fate).inc()
            if verdict.fate == "refused":
                refused = True
                log.error("receipt refused", receipt_id=verdict.receipt_id, reason=verdict.reason)
        if refused:
            kept = await asyncio.to_thread(keep_refused, spool.folder, taken)
            remedy = "mend what the control plane names, then deliver them again"
            log.error("refused receipts are kept", file=str(kept), remedy=remedy)
        await asyncio.to_thread(self._move_mark, taken.end_bytes)
        return max(1, len(batch))

    def _first_of(self, stretch: Stretch) -> tuple[list[BilledAttempt], Stretch]:
        """As many frames as one batch takes, at least one; their records that are readable."""
        batch: list[BilledAttempt] = []
        size_bytes, end_bytes, count = 0, stretch.start_bytes, 0
        for frame in stretch.frames:
            records = self._readable(frame, end_bytes)
            size_bytes += sum(len(each.receipt) + len(each.certificate) for each in records)
            if batch and (size_bytes > BATCH_BYTES or len(batch) + len(records) > MAX_LINES):
                break
            batch += records
            end_bytes += frame.size_bytes
            count += 1
        return batch, Stretch(stretch.start_bytes, stretch.frames[:count])

    def _readable(self, frame: Frame, at_bytes: int) -> list[BilledAttempt]:
        """A record of a form that is not known here is kept apart and holds up no other."""
        found = []
        for body in frame.bodies:
            try:
                found.append(BilledAttempt.decode(body))
            except DataPlaneError as error:
                self._shipped.labels(fate="refused").inc()
                log.error("receipt refused", at_bytes=at_bytes, reason=error.message)
        return found

    async def _set_aside(self, damage: Damage) -> None:
        await asyncio.to_thread(set_aside, self._spool.folder, damage)
        error = damage.error()
        self._damaged.inc()
        log.error("spool damaged", reason=error.message, file=str(damage.path),
                  at_bytes=damage.at_bytes, size_bytes=len(damage.data),
                  remedy=error.remedy)  # fmt: skip
        await asyncio.to_thread(self._move_mark, damage.end_bytes)

    def _move_mark(self, end_bytes: int) -> None:
        """What was acknowledged is not sent again, saved or not: then its segments may go, which
        is what a full disk needs."""
        self._mark_bytes = end_bytes
        try:
            save_mark(self._spool.folder, end_bytes)
        finally:
            self._spool.retire(end_bytes, self._now_ms())

    async def run(self) -> None:
        """Ship for as long as the process runs; a control plane that is away is waited for."""
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                pause = 0.0 if await self.ship() else LOOK_SECONDS
                wait = FIRST_WAIT_SECONDS
            except (OSError, DataPlaneError) as error:
                log.warning("receipts wait", reason=f"{type(error).__name__}: {error}")
                pause, wait = wait, min(2 * wait, MOST_WAIT_SECONDS)
            await asyncio.sleep(pause)

    async def _verdicts(self, batch: Sequence[BilledAttempt]) -> list[Verdict]:
        """Of a batch that is refused as a whole, each receipt is tried by itself: one that cannot
        be read must not hold up the others."""
        sendable = [billed for billed in batch if _fits(billed)]
        unfit = [
            Verdict(billed.request_id, "refused", "the record holds no receipt that can be sent")
            for billed in batch
            if not _fits(billed)
        ]
        if not sendable:
            return unfit
        try:
            return unfit + await self._courier.deliver(sendable)
        except BatchRefused as error:
            if len(sendable) == 1:
                return [*unfit, Verdict(sendable[0].request_id, "refused", str(error))]
        found = unfit
        for billed in sendable:
            found += await self._verdicts([billed])
        return found


def _fits(billed: BilledAttempt) -> bool:
    return 0 < len(billed.receipt) <= MAX_RECEIPT_BYTES and len(billed.certificate) > 0
