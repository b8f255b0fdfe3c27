"""The usage receipt: what one attempt did, signed by the worker that did it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from google.protobuf.message import DecodeError

from prefill_wire.errors import IntegrityError, UnsupportedVersion
from prefill_wire.limits import MAX_RECEIPT_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.signing import SigningKey, verify_document

RECEIPT_VERSION = 1
_DOMAIN = "usage receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReceipt:
    """Counts and times of one attempt; `_us` are microseconds, `_at_ms` Unix milliseconds."""

    receipt_id: str
    request_id: str
    attempt: int
    fencing_epoch: int
    tenant: str
    key_id: str
    model: str
    model_fingerprint: bytes
    datacenter: str
    worker_id: str
    token_count: int
    cached_tokens: int
    state_bytes_raw: int
    state_bytes_sent: int
    root: bytes
    started_at_ms: int
    finished_at_ms: int
    queue_us: int
    prefill_us: int
    encode_us: int


_NAMES = tuple(field.name for field in fields(UsageReceipt))


def sign_receipt(key: SigningKey, receipt: UsageReceipt) -> bytes:
    """Encode and sign with the worker's key."""
    values = {name: getattr(receipt, name) for name in _NAMES}
    message = prefill_pb2.UsageReceipt(version=RECEIPT_VERSION, **values)
    return key.sign(_DOMAIN, message.SerializeToString(deterministic=True))


def verify_receipt(worker_public: bytes, signed: bytes) -> UsageReceipt:
    """The receipt when the worker's signature holds."""
    document = verify_document(worker_public, _DOMAIN, signed, MAX_RECEIPT_BYTES)
    try:
        message = prefill_pb2.UsageReceipt.FromString(document)
    except DecodeError:
        raise IntegrityError("the receipt cannot be parsed") from None
    if message.version != RECEIPT_VERSION:
        raise UnsupportedVersion(f"usage receipt of version {message.version}")
    return UsageReceipt(**{name: getattr(message, name) for name in _NAMES})
