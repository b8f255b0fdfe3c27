"""A worker's certificate: the control plane says whose key this is, where, and until when."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from prefill_wire.errors import IdentityError, IntegrityError, UnsupportedVersion
from prefill_wire.limits import MAX_CERTIFICATE_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.signing import SigningKey, verify_document

CERTIFICATE_VERSION = 1
_DOMAIN = "worker certificate"


@dataclass(frozen=True, slots=True)
class WorkerCertificate:
    """Worker, datacenter and Ed25519 public key; times are Unix milliseconds."""

    worker_id: str
    datacenter: str
    public_key: bytes
    not_before_ms: int
    not_after_ms: int


def issue_certificate(control_key: SigningKey, certificate: WorkerCertificate) -> bytes:
    """Sign a certificate with the control plane's key."""
    message = prefill_pb2.WorkerCertificate(
        version=CERTIFICATE_VERSION,
        worker_id=certificate.worker_id,
        datacenter=certificate.datacenter,
        public_key=certificate.public_key,
        not_before_ms=certificate.not_before_ms,
        not_after_ms=certificate.not_after_ms,
    )
    return control_key.sign(_DOMAIN, message.SerializeToString())


def verify_certificate(control_public: bytes, signed: bytes, now_ms: int) -> WorkerCertificate:
    """The certificate when the pinned control key signed it and `now_ms` is within its time."""
    document = verify_document(control_public, _DOMAIN, signed, MAX_CERTIFICATE_BYTES)
    try:
        parsed = prefill_pb2.WorkerCertificate.FromString(document)
    except DecodeError:
        raise IntegrityError("the worker certificate cannot be parsed") from None
    if parsed.version != CERTIFICATE_VERSION:
        raise UnsupportedVersion(f"worker certificate of version {parsed.version}")
    if not parsed.not_before_ms <= now_ms < parsed.not_after_ms:
        raise IdentityError(f"the certificate of {parsed.worker_id} is not valid at {now_ms} ms")
    return WorkerCertificate(
        parsed.worker_id,
        parsed.datacenter,
        bytes(parsed.public_key),
        parsed.not_before_ms,
        parsed.not_after_ms,
    )
