"""The API's own rate limit, per caller, in this process; its numbers go into every answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from prefill_control.errors import ControlError, Extras, ProblemCode
from prefill_control.quotas.gcra import SECOND_US, Grant, Rate, take

MAX_CALLERS = 65_536


class Throttle:
    """Remembers one number per caller; the longest silent callers are forgotten first."""

    def __init__(self, rate: Rate, now_us: Callable[[], int]) -> None:
        self.rate = rate
        self._now_us = now_us
        self._arrivals: OrderedDict[str, int] = OrderedDict()

    def take(self, caller: str) -> list[tuple[bytes, bytes]]:
        """The rate-limit headers of an allowed request; RATE_LIMITED otherwise."""
        grant = take(self.rate, self._arrivals.get(caller, 0), self._now_us())
        headers = self._headers(grant)
        if not grant.allowed:
            seconds = max(1, -(-grant.retry_after_us // SECOND_US))
            raise ControlError(
                ProblemCode.RATE_LIMITED,
                f"more than {self.rate.per_second} requests a second (burst {self.rate.burst})",
                extras=Extras(
                    retry_after_seconds=seconds,
                    headers={name.decode(): value.decode() for name, value in headers},
                ),
            )
        self._arrivals[caller] = grant.arrival_us
        self._arrivals.move_to_end(caller)
        if len(self._arrivals) > MAX_CALLERS:
            self._arrivals.popitem(last=False)
        return headers

    def _headers(self, grant: Grant) -> list[tuple[bytes, bytes]]:
        reset = -(-grant.reset_us // SECOND_US)
        return [
            (b"ratelimit-limit", str(self.rate.burst).encode()),
            (b"ratelimit-remaining", str(grant.remaining).encode()),
            (b"ratelimit-reset", str(reset).encode()),
        ]
