"""What is billed and may be asked for again: a small entry each, its answers lie in the spool."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import count

from prefill_data.metering.spool import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """Where to find the record of a billed attempt; `expires_at_ms` (Unix) is its lease's end.

    A record of an old gateway has no idempotency key: it can be claimed, and not opened again.
    """

    tenant: str
    request_id: str
    attempt: int
    idempotency_key: str
    body_digest: bytes
    expires_at_ms: int
    place: Place


class BilledIndex:
    """By request and by idempotency key, tenant by tenant, until the lease ends."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], Billed] = {}
        self._keys: dict[tuple[str, str], Billed] = {}
        self._due: list[tuple[int, int, Billed]] = []
        self._order = count()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._requests)

    def count(self, tenant: str) -> int:
        """How many a tenant has."""
        return self._counts[tenant]

    def add(self, billed: Billed) -> None:
        """Keep it until its lease ends."""
        self._requests[billed.tenant, billed.request_id] = billed
        if billed.idempotency_key:
            self._keys[billed.tenant, billed.idempotency_key] = billed
        self._counts[billed.tenant] += 1
        heapq.heappush(self._due, (billed.expires_at_ms, next(self._order), billed))

    def find(self, tenant: str, request_id: str) -> Billed | None:
        """Another tenant's is not there."""
        return self._requests.get((tenant, request_id))

    def opened(self, tenant: str, idempotency_key: str) -> Billed | None:
        """What this key opened."""
        return self._keys.get((tenant, idempotency_key))

    def expire(self, now_ms: int) -> None:
        """Forget those whose lease is over; the record stays in the spool until it is shipped."""
        while self._due and self._due[0][0] <= now_ms:
            _, _, billed = heapq.heappop(self._due)
            self._forget(billed)

    def _forget(self, billed: Billed) -> None:
        request, key = (
            (billed.tenant, billed.request_id),
            (billed.tenant, billed.idempotency_key),
        )
        if self._requests.get(request) is billed:
            del self._requests[request]
        if self._keys.get(key) is billed:
            del self._keys[key]
        self._counts[billed.tenant] -= 1
        if not self._counts[billed.tenant]:
            del self._counts[billed.tenant]
