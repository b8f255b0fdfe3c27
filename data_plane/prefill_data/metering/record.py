"""One billed attempt as the spool keeps it: enough to give every answer of it after a crash."""

from __future__ import annotations

import msgspec
from prefill_fleet.snapshot import Rates
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

RECORD_VERSION = 3  # 1 could not answer an Open again, 2 did not say why its place was chosen


class BilledAttempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A durable claim; `expires_at_ms` (Unix) ends the time in which it is answered again.

    accept, envelope: the serialized answers to Open and Prompt. `body_digest` is of the Open that
    came with the idempotency key.
    """

    version: int = RECORD_VERSION
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
    certificate: bytes = b""
    idempotency_key: str = ""
    body_digest: bytes = b""
    accept: bytes = b""
    envelope: bytes = b""
    route_reason: str = ""

    def encode(self) -> bytes:
        """As one spool record."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> BilledAttempt:
        """The attempt of a record; INTERNAL for a record of another form."""
        try:
            found = msgspec.msgpack.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise _unreadable(data, str(error)) from None
        if not 1 <= found.version <= RECORD_VERSION:
            raise _unreadable(data, f"it has version {found.version}")
        return found


def _unreadable(data: bytes, why: str) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.INTERNAL,
        f"a receipt record of {len(data)} bytes cannot be read: {why}",
        "run the version of the gateway that wrote it",
    )


def amount_micros(tokens: int, cached_tokens: int, rates: Rates) -> int:
    """What a prefill costs: cached tokens at their rate, the others at theirs, rounded up once."""
    missed = tokens - cached_tokens
    parts = missed * rates.input_miss_micros + cached_tokens * rates.input_hit_micros
    return -(-parts // 1_000_000)
