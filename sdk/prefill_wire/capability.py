"""What opens a data channel: a capability the worker made, and a proof of the attempt's secret."""

from __future__ import annotations

import hmac

import msgspec

from prefill_wire.errors import CapabilityError
from prefill_wire.limits import MAX_CAPABILITY_BYTES, MAX_CONNECTIONS
from prefill_wire.status import StatusCode

TAG_BYTES = 32
NONCE_BYTES = 32


class Capability(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which attempt may be pulled, from which worker, until when, over how many connections."""

    request_id: str
    attempt: int
    worker_id: str
    expires_at_ms: int
    max_connections: int


def _tag(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"prefill.cloud v1 " + b"".join(parts), "sha256")


def issue_capability(worker_key: bytes, capability: Capability) -> bytes:
    """The capability and its tag under a key that only the worker has."""
    body = msgspec.msgpack.encode(capability)
    return _tag(worker_key, b"capability", body) + body


def verify_capability(worker_key: bytes, data: bytes, worker_id: str, now_ms: int) -> Capability:
    """The capability when this worker made it and its time is not over."""
    if not TAG_BYTES < len(data) <= MAX_CAPABILITY_BYTES:
        raise CapabilityError(f"a capability of {len(data)} bytes, the limit is 1,024")
    tag, body = data[:TAG_BYTES], data[TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(worker_key, b"capability", body)):
        raise CapabilityError("the capability was not made by this worker")
    try:
        capability = msgspec.msgpack.decode(body, type=Capability)
    except msgspec.DecodeError:
        raise CapabilityError("the capability is of a form this side does not know") from None
    if capability.worker_id != worker_id or not 1 <= capability.max_connections <= MAX_CONNECTIONS:
        raise CapabilityError(f"the capability is for worker {capability.worker_id}")
    if now_ms >= capability.expires_at_ms:
        message = f"the capability of {capability.request_id} ended {capability.expires_at_ms} ms"
        raise CapabilityError(message, StatusCode.CAPABILITY_EXPIRED)
    return capability


def connection_proof(connection_key: bytes, nonce: bytes, capability: bytes) -> bytes:
    """HMAC over the server's nonce: only who opened the envelope has the key."""
    return _tag(connection_key, b"connection", nonce, capability)


def check_connection_proof(
    connection_key: bytes, nonce: bytes, capability: bytes, proof: bytes
) -> None:
    """`CapabilityError` unless the proof is this connection's."""
    if not hmac.compare_digest(connection_proof(connection_key, nonce, capability), proof):
        raise CapabilityError("the connection proof does not hold: the capability is not yours")
