"""One-time keys of requests that a caller may repeat under the idempotency key it chose."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from prefill_wire.ids import new_id
from prefill_wire.sealing import OneTimeKey

_KEPT = 256


class Keyring:
    """A repeated request has to carry the same one-time key: it belongs to the request's body.

    Keys stay in memory, the last 256 of them, and are never written anywhere.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._keys: OrderedDict[str, OneTimeKey] = OrderedDict()

    def pair(self, idempotency_key: str | None) -> tuple[str, OneTimeKey]:
        """The idempotency key, made when absent, and the one-time key that goes with it."""
        if idempotency_key is None:
            return new_id("idm", self._random), OneTimeKey.generate()
        if idempotency_key not in self._keys:
            self._keys[idempotency_key] = OneTimeKey.generate()
        self._keys.move_to_end(idempotency_key)
        if len(self._keys) > _KEPT:
            self._keys.popitem(last=False)
        return idempotency_key, self._keys[idempotency_key]
