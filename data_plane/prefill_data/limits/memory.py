"""What a gateway was told of quotas, for a server that loses it. Pure; time is given.

A gateway tells it with whatever it asks. A tenant may have gone to a gateway that knows nothing,
so once a second each gateway also looks at the one that it was told of longest ago; where that
account is lost, it tells of all, whether anybody asks for them or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from prefill_data.limits.buckets import Bucket, BucketId
from prefill_data.limits.ledger import Answer

MAX_TOLD = 100_000  # quotas remembered, 0.5 KiB each
LOOK_US = 1_000_000  # between two looks at a quota that nobody asks for
AT_ONCE = 250  # quotas told of at a time after a loss: 1,000 a second


class Told(NamedTuple):
    """`spent` as `Answer` has it, of the account born at `born_us`; asked for at `at_us`."""

    bucket: Bucket
    spent: int
    born_us: int
    at_us: int


@dataclass(slots=True)
class QuotaMemory:
    """The quotas of one gateway, the longest untold first. What was told before `doubted_us` may be
    of accounts that are lost. `changes` counts what was told that was not known."""

    told: dict[BucketId, Told] = field(default_factory=dict)
    doubted_us: int = 0
    look_at_us: int = 0
    changes: int = 0

    def take(self, bucket: Bucket, answer: Answer, at_us: int, now_us: int) -> None:
        """What was asked for at `at_us` was answered; the longest untold are forgotten first."""
        known = self.told.pop(bucket.id, None)
        # Each loss is seen once: what was told of before it is doubted already.
        if known is not None and known.born_us != answer.born_us and known.at_us >= self.doubted_us:
            self.doubted_us = now_us
        told = self.told[bucket.id] = Told(bucket, answer.spent, answer.born_us, at_us)
        self.changes += known is None or known[1:3] != told[1:3]
        if len(self.told) > MAX_TOLD:
            del self.told[next(iter(self.told))]

    def due(self, now_us: int) -> list[Bucket]:
        """Of which to ask now, without need: some of those in doubt, else one now and then."""
        doubted = []
        for name, told in list(islice(self.told.items(), AT_ONCE)):
            if 1000 * told.bucket.ends_at_ms <= now_us:
                del self.told[name]
            elif told.at_us < self.doubted_us:
                doubted.append(told.bucket)
        if doubted or not self.told or now_us < self.look_at_us:
            return doubted
        self.look_at_us = now_us + LOOK_US
        return [next(iter(self.told.values())).bucket]
