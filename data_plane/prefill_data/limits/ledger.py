"""The account of one bucket and of the units lent to gateways. Pure; integer arithmetic.

This is GCRA with its theoretical arrival time kept as a debt: debt / rate lies that far ahead of
now. Lent units that are not spent yet stay in the debt for as long as they are held, so that
whatever gateways hold and what the bucket still has never exceed its capacity together. Hence in
any t seconds, not only from the start, at most capacity + rate * t are spent, all gateways summed.
`script.lua` does the same inside Redis; a test holds the two to each other.

Nothing drips out of a quota's debt: it is what was spent in the period, and what is lent. So what a
gateway was told of it stays true of an account that its server lost, whatever the quota is now. A
new account takes the highest number that anybody was told of the lost ones, once, and adds what it
lent itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prefill_data.limits.buckets import Bucket

LEASE_US = 5_000_000  # units of a gateway that says nothing for so long are its own no more


@dataclass(frozen=True, slots=True)
class Ask:
    """What a gateway says and wants.

    keep:  units that it still holds.
    back:  unspent units given back; of a quota also spent ones that did not count in the end.
    extra: units taken without having been lent: spent, or among those kept.
    want:  units wanted beside those kept, but not fewer than `least`.
    known_left: what it was told last, for when nobody can be asked; negative: it never was.
    told, told_born_us: of a quota, `Answer.spent` of which account, as told last (negative: it
        never was); an account that was born at another time has lost what was spent before.
    """

    bucket: Bucket
    keep: int = 0
    back: int = 0
    extra: int = 0
    want: int = 0
    least: int = 0
    known_left: int = -1
    told: int = -1
    told_born_us: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Units `granted`, units `left` in the bucket; `wait_us` until `least` units are there (0 when
    they were granted, negative when only a return or the next period can bring them). `born_us`:
    when the account began, which tells it from one that its server has lost. `spent`: of a quota,
    units spent in its period or held by anybody, after this answer."""

    granted: int
    left: int
    wait_us: int
    born_us: int = 0
    spent: int = 0


@dataclass(slots=True)
class Ledger:
    """Debt in parts of a unit (`Bucket.scale`); holders with their units and the lease's end.
    `before`: how much of a quota's debt was lent by accounts that are lost, as told so far."""

    debt: int = 0
    at_us: int = 0
    holders: dict[str, tuple[int, int]] = field(default_factory=dict)
    born_us: int = 0
    before: int = 0

    def ask(self, holder: str, ask: Ask, now_us: int) -> Answer:
        """Settle what the holder says, then lend what there is."""
        bucket, scale = ask.bucket, ask.bucket.scale
        if not self.at_us:
            self.born_us = now_us
        now_us = max(now_us, self.at_us)
        self._expire(bucket, now_us)
        self._pass(bucket, now_us)
        mine, _ = self.holders.pop(holder, (0, 0))
        others = sum(units for units, _ in self.holders.values())
        self._settle(ask, mine, others)
        left = max(0, (bucket.capacity * scale - self.debt) // scale)
        granted = min(ask.want, left)
        if granted < ask.least:
            granted = 0
        self.debt += granted * scale
        if ask.keep + granted:
            self.holders[holder] = (ask.keep + granted, now_us + LEASE_US)
        spent = self.debt if bucket.is_quota else 0
        return Answer(granted, left - granted, self._wait_us(ask, granted), self.born_us, spent)

    def _settle(self, ask: Ask, mine: int, others: int) -> None:
        """Take in what the holder of `mine` units says; others hold theirs."""
        bucket, scale = ask.bucket, ask.bucket.scale
        fresh = max(0, ask.keep - mine)  # lost with an old lease, yet still held
        if bucket.is_quota and ask.told >= 0 and ask.told_born_us != self.born_us:
            fresh = 0  # it is part of what was told
            self.debt += max(0, ask.told - self.before)
            self.before = max(ask.told, self.before)
        back = ask.back if bucket.is_quota else min(ask.back, max(0, mine - ask.keep))
        self.debt += max(fresh, ask.extra) * scale  # some of what is kept may be extra
        self.debt = max(self.debt - back * scale, (others + ask.keep) * scale)
        self.debt = others + ask.keep if bucket.lent else self.debt

    def _pass(self, bucket: Bucket, until_us: int) -> None:
        """Debt is paid off, but never below what is held: held units may be spent only now. The
        caller has still got every holder of that time."""
        held = sum(units for units, _ in self.holders.values())
        paid = bucket.per_second * (until_us - self.at_us)
        self.debt = max(self.debt - paid, held * bucket.scale)
        self.at_us = until_us

    def _expire(self, bucket: Bucket, now_us: int) -> None:
        """Who fell silent: lent places come back, other units count as spent at the very end."""
        ended = [(until_us, name) for name, (_, until_us) in self.holders.items()]
        for until_us, name in sorted(pair for pair in ended if pair[0] <= now_us):
            self._pass(bucket, until_us)
            units, _ = self.holders.pop(name)
            self.debt -= units if bucket.lent else 0

    def _wait_us(self, ask: Ask, granted: int) -> int:
        if granted >= ask.least:
            return 0
        bucket = ask.bucket
        if not bucket.per_second:
            return -1
        beyond = self.debt + (ask.least - bucket.capacity) * bucket.scale
        return max(1, -(-beyond // bucket.per_second))
