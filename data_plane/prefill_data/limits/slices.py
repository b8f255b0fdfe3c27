"""What this gateway holds of every bucket, and when and how much it asks for. Pure; time is given.

Units are lent ahead of need, so that most requests are decided without asking anybody. How many is
a balance: units that lie idle here are missing elsewhere, so no gateway holds more than a
sixteenth of a bucket in stock, and what lay idle for a second goes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prefill_data.limits.buckets import Bucket, BucketId, Charge
from prefill_data.limits.evaluate import (
    Allowed,
    Refused,
    Short,
    Standing,
    evaluate,
)
from prefill_data.limits.ledger import LEASE_US, Answer, Ask
from prefill_data.limits.memory import QuotaMemory

STOCK_SHARE = 16
STOCK_US = 250_000  # demand of so long is held in stock
MEMORY_US = 500_000  # over which demand is measured
IDLE_US = 1_000_000
RENEW_US = LEASE_US // 3
ASK_AGAIN_US = 5_000  # at the earliest, after an answer that brought too little
UNKNOWN_US = {True: 50_000, False: 1_000_000}  # a place (True) may come free soon, a quota may not


@dataclass(slots=True)
class Slice:
    """One gateway's part of a bucket. Times are Unix microseconds that never go backwards.

    free:    units at hand, as long as the lease holds.
    in_use:  places of running requests.
    waiting: units that somebody waits for now.
    left:    units that were left in the bucket when it was told last; negative: it never was.
    spent:   of a quota, units spent or lent as told last.
    owed:    units of a quota that did not count in the end, to be given back.
    heat:    recent demand, decaying.
    """

    bucket: Bucket
    free: int = 0
    in_use: int = 0
    left: int = -1
    spent: int = 0
    lease_until_us: int = 0
    told_at_us: int = 0
    retry_at_us: int = 0
    asking: bool = False
    waiting: int = 0
    owed: int = 0
    heat: float = 0.0
    warm_at_us: int = 0

    def standing(self, now_us: int) -> Standing:
        """As `evaluate` wants to know it; what a dead lease left is no longer there."""
        if now_us >= self.lease_until_us:
            self.free = 0
        return Standing(self.free, max(0, self.spent - self.free), self.retry_at_us)

    def warm(self, cost: int, now_us: int) -> None:
        """Somebody wanted `cost` units."""
        self.heat = self.heat * math.exp((self.warm_at_us - now_us) / MEMORY_US) + cost
        self.warm_at_us = now_us

    def stock(self, cost: int) -> int:
        """Units worth having at hand after the next request of this cost; too few are of no use."""
        soon = int(self.heat * STOCK_US / MEMORY_US)
        stock = min(max(soon, 4 * cost), self.bucket.capacity // STOCK_SHARE)
        return stock if stock >= cost else 0


@dataclass(slots=True)
class SliceBook:
    """All slices of one gateway, and what it remembers of quotas."""

    slices: dict[BucketId, Slice] = field(default_factory=dict)
    memory: QuotaMemory = field(default_factory=QuotaMemory)

    def decide(self, charges: Sequence[Charge], now_us: int) -> Allowed | Short | Refused:
        """Evaluate, and take the units when all of them are there."""
        mine = [self._slice(charge.bucket) for charge in charges]
        for charge, each in zip(charges, mine, strict=True):
            each.warm(charge.cost, now_us)
        return self.decide_again(charges, now_us)

    def decide_again(self, charges: Sequence[Charge], now_us: int) -> Allowed | Short | Refused:
        """The same request once more, after an answer came."""
        mine = [self._slice(charge.bucket) for charge in charges]
        verdict = evaluate(charges, [each.standing(now_us) for each in mine], now_us)
        if isinstance(verdict, Allowed):
            for charge, each in zip(charges, mine, strict=True):
                each.free -= charge.cost
                each.in_use += charge.cost if charge.bucket.lent else 0
        return verdict

    def give_back(self, charges: Iterable[Charge], counted: bool) -> None:
        """A request ended: its place is free again; what was not counted in the end is, too."""
        for charge in charges:
            found = self._slice(charge.bucket)
            if charge.bucket.lent:
                found.in_use -= charge.cost
                found.free += charge.cost
            elif charge.bucket.is_quota and not counted:
                found.owed += charge.cost

    def wait(self, charges: Iterable[Charge], sign: int) -> None:
        """A request begins (+1) or ends (-1) to wait for these."""
        for charge in charges:
            self._slice(charge.bucket).waiting += sign * charge.cost

    def asks_for(self, charges: Iterable[Charge], now_us: int) -> list[Ask]:
        """What to ask for a request that is short, and for those that wait with it; nothing where
        an answer is on its way."""
        asks = []
        for charge in charges:
            found = self._slice(charge.bucket)
            if found.asking or found.free >= charge.cost:
                continue
            least = charge.cost - found.free
            wanted = max(least, found.waiting - found.free) + found.stock(charge.cost)
            asks.append(self._ask(found, wanted, least, now_us))
        return asks

    def asks_back(self, charges: Iterable[Charge], now_us: int) -> list[Ask]:
        """Places beyond the stock go back at once: others may wait for them."""
        asks = []
        for charge in charges:
            found = self._slice(charge.bucket)
            surplus = found.free - found.stock(charge.cost) if charge.bucket.lent else 0
            if not found.asking and surplus > 0:
                found.free -= surplus
                asks.append(self._ask(found, 0, 0, now_us, surplus))
        return asks

    def asks_ahead(self, charges: Iterable[Charge], now_us: int) -> list[Ask]:
        """What to ask for after a request was allowed, before the next one is short."""
        asks = []
        for charge in charges:
            found = self._slice(charge.bucket)
            stock = found.stock(charge.cost)
            if not found.asking and 2 * found.free < stock and found.retry_at_us <= now_us:
                asks.append(self._ask(found, stock - found.free, 0, now_us))
        return asks

    def asks_of_time(self, now_us: int) -> list[Ask]:
        """Leases to be renewed, idle units to be given back, quotas to be told of again; slices of
        nothing are forgotten."""
        asks = []
        for name, found in list(self.slices.items()):
            found.standing(now_us)
            idle = now_us - found.warm_at_us >= IDLE_US
            holds = found.free > 0 or found.in_use > 0 or found.owed > 0
            if found.asking:
                continue
            if idle and not holds and now_us >= found.lease_until_us:
                del self.slices[name]
            elif idle and found.free > 0:
                back, found.free = found.free, 0
                asks.append(self._ask(found, 0, 0, now_us, back))
            elif found.owed > 0 or (holds and now_us - found.told_at_us >= RENEW_US):
                asks.append(self._ask(found, 0, 0, now_us))
        due = (self.slices.get(b.id) or self._slice(b) for b in self.memory.due(now_us))
        return asks + [self._ask(found, 0, 0, now_us) for found in due if not found.asking]

    def answered(self, ask: Ask, answer: Answer, now_us: int) -> None:
        """Take in what was lent; the lease counts from when it was asked for."""
        found = self._slice(ask.bucket)
        found.asking = False
        found.free = (found.free if now_us < found.lease_until_us else 0) + answer.granted
        found.left = answer.left
        if ask.bucket.is_quota and answer.born_us:
            found.spent = answer.spent
            self.memory.take(ask.bucket, answer, found.told_at_us, now_us)
        found.lease_until_us = found.told_at_us + LEASE_US
        if ask.least and answer.granted < ask.least:
            # A quota may be raised, a place may come free: nobody knows when.
            wait_us = answer.wait_us if answer.wait_us >= 0 else UNKNOWN_US[ask.bucket.lent]
            found.retry_at_us = now_us + max(wait_us, ASK_AGAIN_US)
        elif ask.want:
            found.retry_at_us = 0 if answer.granted else now_us + ASK_AGAIN_US

    def failed(self, ask: Ask) -> None:
        """No answer came: nobody knows whether something was lent, so nothing was."""
        found = self._slice(ask.bucket)
        found.asking = False
        found.owed += ask.back if ask.bucket.is_quota else 0

    def _ask(self, found: Slice, want: int, least: int, now_us: int, back: int = 0) -> Ask:
        found.asking, found.told_at_us = True, now_us
        back, found.owed = back + found.owed, 0
        want = max(want, found.waiting - found.free)  # an ask on its way holds up the next one
        keep = found.free + found.in_use
        told, left = self.memory.told.get(found.bucket.id), found.left
        if told is None:
            return Ask(found.bucket, keep, back, want=want, least=least, known_left=left)
        left = max(0, found.bucket.capacity - told.spent)  # whatever the quota was then
        return Ask(
            found.bucket, keep, back, want=want, least=least, known_left=left,
            told=told.spent, told_born_us=told.born_us,
        )  # fmt: skip

    def _slice(self, bucket: Bucket) -> Slice:
        found = self.slices.get(bucket.id)
        if found is None:
            told = self.memory.told.get(bucket.id)
            spent = told.spent if told is not None else 0
            found = self.slices[bucket.id] = Slice(bucket, spent=spent)
        found.bucket = bucket  # its numbers may have changed
        return found
