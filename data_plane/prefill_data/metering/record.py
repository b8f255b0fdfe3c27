"""One billed attempt as the spool keeps it: enough to release its manifest again after a crash."""

from __future__ import annotations

import msgspec
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError


class BilledAttempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A durable claim; `expires_at_ms` (Unix) ends the time in which it is answered again."""

    version: int = 1
    request_id: str
    attempt: int
    tenant: str
    key_id: str
    root: bytes
    chunk_count: int
    sealed_manifest: bytes
    receipt: bytes
    amount_micros: int
    expires_at_ms: int

    def encode(self) -> bytes:
        """As one spool record."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> BilledAttempt:
        """The attempt of a record; INTERNAL for a record of another form."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise DataPlaneError(
                StatusCode.INTERNAL,
                f"a receipt record of {len(data)} bytes cannot be read: {error}",
                "run the version of the gateway that wrote it",
            ) from None


def price_micros(tokens: int, micros_per_million: int) -> int:
    """Millionths of the currency for so many tokens, rounded up: the bound a caller is told."""
    return -(-tokens * micros_per_million // 1_000_000)
