"""Who one of our processes is: a certificate by the control plane, and envelopes signed with it.

Workers show the certificate that customers see too; gateways have one of a kind of their own, so
that a gateway can never sign a usage receipt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from prefill_wire.certificate import verify_certificate
from prefill_wire.errors import IdentityError, IntegrityError
from prefill_wire.limits import MAX_CERTIFICATE_BYTES
from prefill_wire.signing import SigningKey, verify_document

from prefill_fleet.documents import Document, decode, encode, open_signed, sign

_CERTIFICATE_DOMAIN = "gateway certificate"


class Role(StrEnum):
    """What a process is."""

    WORKER = "worker"
    GATEWAY = "gateway"


class GatewayCertificate(Document, frozen=True, kw_only=True):
    """Gateway, datacenter and Ed25519 public key; times are Unix milliseconds."""

    gateway_id: str
    datacenter: str
    public_key: bytes
    not_before_ms: int
    not_after_ms: int


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that proved who it is."""

    role: Role
    name: str
    datacenter: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What a process proves itself with."""

    role: Role
    certificate: bytes
    key: SigningKey


class _Envelope(Document, frozen=True, kw_only=True):
    role: Role
    certificate: bytes
    signed: bytes


def issue_gateway_certificate(control_key: SigningKey, certificate: GatewayCertificate) -> bytes:
    """Signed with the control plane's key."""
    return sign(control_key, _CERTIFICATE_DOMAIN, certificate)


def seal(credential: Credential, domain: str, body: bytes) -> bytes:
    """`body` signed by this process, with its certificate beside it."""
    return encode(
        _Envelope(
            role=credential.role,
            certificate=credential.certificate,
            signed=credential.key.sign(_domain(credential.role, domain), body),
        )
    )


def open_sealed(
    control_public: bytes, domain: str, sealed: bytes, now_ms: int, limit_bytes: int
) -> tuple[Identity, bytes]:
    """Who signed, and what; WireError unless certificate and signature hold at `now_ms`.

    `limit_bytes` bounds the body and is checked before anything is parsed.
    """
    limit = limit_bytes + 2 * MAX_CERTIFICATE_BYTES
    if len(sealed) > limit:
        raise IntegrityError(f"an envelope of {len(sealed)} bytes, the limit is {limit}")
    envelope = decode(sealed, _Envelope, limit)
    identity, public = _identify(control_public, envelope, now_ms)
    body = verify_document(public, _domain(envelope.role, domain), envelope.signed, limit)
    return identity, body


def _identify(control_public: bytes, envelope: _Envelope, now_ms: int) -> tuple[Identity, bytes]:
    if envelope.role is Role.WORKER:
        worker = verify_certificate(control_public, envelope.certificate, now_ms)
        identity = Identity(Role.WORKER, worker.worker_id, worker.datacenter)
        return identity, worker.public_key
    gateway = open_signed(
        control_public,
        _CERTIFICATE_DOMAIN,
        envelope.certificate,
        GatewayCertificate,
        MAX_CERTIFICATE_BYTES,
    )
    if not gateway.not_before_ms <= now_ms < gateway.not_after_ms:
        raise IdentityError(f"the certificate of {gateway.gateway_id} is not valid at {now_ms} ms")
    return Identity(Role.GATEWAY, gateway.gateway_id, gateway.datacenter), gateway.public_key


def _domain(role: Role, domain: str) -> str:
    return f"{role} {domain}"
