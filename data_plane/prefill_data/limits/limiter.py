"""Admits requests by their limits; asks Redis ahead of need, and for many requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog
from prefill_fleet.snapshot import LimitNumbers
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.limits.buckets import (
    TENANT_ITSELF,
    BucketId,
    Charge,
    Subject,
    charges_of,
)
from prefill_data.limits.evaluate import Allowed, Refused, Short
from prefill_data.limits.ledger import Ask
from prefill_data.limits.slices import SliceBook
from prefill_data.limits.store import LimitStore

log = structlog.get_logger()
PATIENCE_US = 3_000_000  # for which a request waits for answers, one after the other
RETRY_MS = 1000
TURN_SECONDS = 0.25


class Permit:
    """What a request holds of its limits until it ends."""

    def __init__(self, end: Callable[[bool], None]) -> None:
        self._end: Callable[[bool], None] | None = end

    def end(self, counted: bool) -> None:
        """The request is over; `counted`: its tokens count against quotas. Once; later calls do
        nothing."""
        end, self._end = self._end, None
        if end is not None:
            end(counted)


FREE = Permit(lambda counted: None)


class Limiter:
    """One gateway's; `run` it for as long as the process."""

    def __init__(self, store: LimitStore, now_us: Callable[[], int]) -> None:
        """`now_us`: Unix microseconds that never go backwards."""
        self._store, self._now_us = store, now_us
        self.book = SliceBook()
        self._answers: dict[BucketId, asyncio.Task[None]] = {}

    async def admit(
        self, tenant: str, key_id: str, numbers: tuple[LimitNumbers, LimitNumbers | None],
        tokens: int,
    ) -> Permit:  # fmt: skip
        """Take `tokens` and one request within all limits of the tenant and of the key, or raise
        RATE_LIMITED or QUOTA_EXCEEDED; CAPACITY_EXHAUSTED when nobody could say."""
        subjects = [Subject(tenant, TENANT_ITSELF, numbers[0])]
        if numbers[1] is not None:
            subjects.append(Subject(tenant, key_id, numbers[1]))
        charges = charges_of(tuple(subjects), tokens, self._now_us() // 1000)
        if not charges:
            return FREE
        verdict = await self._decide(charges)
        if isinstance(verdict, Refused):
            raise verdict.error()
        if isinstance(verdict, Allowed) and verdict.soft:
            log.info("quota", tenant=tenant, beyond=[str(b.id.limit) for b in verdict.soft])
        self._send(self.book.asks_ahead(charges, self._now_us()))
        return Permit(lambda counted: self._ended(charges, counted))

    async def _decide(self, charges: Sequence[Charge]) -> Allowed | Refused:
        begun_us = self._now_us()
        verdict = self.book.decide(charges, begun_us)
        while isinstance(verdict, Short):
            if self._now_us() - begun_us > PATIENCE_US:
                raise DataPlaneError(
                    StatusCode.CAPACITY_EXHAUSTED,
                    f"the limit {verdict.charges[0].bucket.id.limit} could not be asked in time",
                    retry_after_ms=RETRY_MS,
                )
            await self._bring(verdict.charges)
            verdict = self.book.decide_again(charges, self._now_us())
        return verdict

    async def _bring(self, charges: Sequence[Charge]) -> None:
        """Wait for the answers that these charges are short of."""
        self.book.wait(charges, 1)
        try:
            self._send(self.book.asks_for(charges, self._now_us()))
            waiting = {self._answers[c.bucket.id] for c in charges if c.bucket.id in self._answers}
            await asyncio.wait(waiting or {asyncio.create_task(asyncio.sleep(0))})
        finally:
            self.book.wait(charges, -1)

    def _ended(self, charges: Iterable[Charge], counted: bool) -> None:
        charges = tuple(charges)
        self.book.give_back(charges, counted)
        self._send(self.book.asks_back(charges, self._now_us()))

    def _send(self, asks: list[Ask]) -> None:
        """Ask on the way, and let who is short wait for the task."""
        if not asks:
            return
        task = asyncio.create_task(self._ask(asks))
        for ask in asks:
            self._answers[ask.bucket.id] = task

    async def _ask(self, asks: list[Ask]) -> None:
        pending = list(asks)
        try:
            answers = await self._store.ask(asks)
            for ask, answer in zip(asks, answers, strict=True):
                self.book.answered(ask, answer, self._now_us())
                pending.remove(ask)
        finally:
            for ask in pending:
                self.book.failed(ask)
            for ask in asks:
                self._answers.pop(ask.bucket.id, None)

    async def run(self) -> None:
        """Renew leases and give back what lies idle."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            self.turn()

    def turn(self) -> None:
        """Once; `settle` waits for what it asks."""
        self._send(self.book.asks_of_time(self._now_us()))

    async def settle(self) -> None:
        """Wait for the answers under way."""
        while self._answers:
            await asyncio.wait(set(self._answers.values()))
