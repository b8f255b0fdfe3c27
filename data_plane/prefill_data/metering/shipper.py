"""Brings the spool's receipts to the control plane: at least once, which counts once there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from prefill_wire.limits import MAX_RECEIPT_BYTES
from prometheus_client import CollectorRegistry, Counter, Gauge

from prefill_data.errors import DataPlaneError
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import RECORD_OVERHEAD_BYTES, SPOOL_FILE
from prefill_data.metering.tail import Stretch, load_mark, read_stretch, save_mark

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
    """One gateway's; it alone moves the mark. Receipts that are refused stay in the spool."""

    def __init__(
        self,
        folder: Path,
        durable_bytes: Callable[[], int],
        courier: Courier,
        registry: CollectorRegistry,
    ) -> None:
        self._folder, self._durable_bytes, self._courier = folder, durable_bytes, courier
        self._mark_bytes = load_mark(folder)
        self._shipped = Counter(
            "prefill_gateway_receipts_shipped", "Verdicts by fate", ["fate"], registry=registry
        )
        Gauge(
            "prefill_gateway_receipts_unshipped_bytes", "Spool beyond the mark", registry=registry
        ).set_function(lambda: max(0, durable_bytes() - self._mark_bytes))

    async def ship(self) -> int:
        """Bring one batch; how many records it had (0: nothing is left)."""
        durable = self._durable_bytes()
        if self._mark_bytes == durable:
            return 0
        path = self._folder / SPOOL_FILE
        stretch = await asyncio.to_thread(read_stretch, path, self._mark_bytes, durable)
        batch, end_bytes = _first_of(stretch)
        for verdict in await self._verdicts(batch):
            self._shipped.labels(fate=verdict.fate).inc()
            if verdict.fate == "refused":
                log.error("receipt refused", receipt_id=verdict.receipt_id, reason=verdict.reason)
        await asyncio.to_thread(save_mark, self._folder, end_bytes)
        self._mark_bytes = end_bytes
        return len(batch)

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


def _first_of(stretch: Stretch) -> tuple[list[BilledAttempt], int]:
    """As many records as one batch takes, and where the next one begins."""
    batch: list[BilledAttempt] = []
    size_bytes, end_bytes = 0, stretch.end_bytes - sum(map(len, stretch.records))
    end_bytes -= RECORD_OVERHEAD_BYTES * len(stretch.records)
    for body in stretch.records[:MAX_LINES]:
        billed = BilledAttempt.decode(body)
        size_bytes += len(billed.receipt) + len(billed.certificate)
        if batch and size_bytes > BATCH_BYTES:
            break
        batch.append(billed)
        end_bytes += RECORD_OVERHEAD_BYTES + len(body)
    return batch, end_bytes
