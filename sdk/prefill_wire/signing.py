"""Signed documents: the exact bytes that were signed, and an Ed25519 signature (RFC 8032)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from prefill_wire.errors import IntegrityError, LimitExceeded
from prefill_wire.pb import prefill_pb2

_DOMAIN = b"prefill.cloud v1 signed "


class SigningKey:
    """An Ed25519 key; its public half is 32 bytes."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed, as key files hold it."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def seed(self) -> bytes:
        """The 32 bytes that a key file keeps; secret."""
        return self._private.private_bytes_raw()

    def sign(self, domain: str, document: bytes) -> bytes:
        """A SignedDocument over `document`; a domain's signature is worth nothing in another."""
        signature = self._private.sign(_message(domain, document))
        return prefill_pb2.SignedDocument(
            document=document, signature=signature
        ).SerializeToString()


def _message(domain: str, document: bytes) -> bytes:
    return _DOMAIN + len(domain).to_bytes(1, "little") + domain.encode() + document


@lru_cache(maxsize=64)  # a gateway hears the same few workers all day
def _public_key(public_bytes: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_bytes)


def verify_document(public_bytes: bytes, domain: str, signed: bytes, limit_bytes: int) -> bytes:
    """The document when the signature holds; its size is checked before it is parsed."""
    if len(signed) > limit_bytes:
        raise LimitExceeded.of(f"signed {domain}, bytes", len(signed), limit_bytes)
    try:
        parsed = prefill_pb2.SignedDocument.FromString(signed)
        _public_key(public_bytes).verify(parsed.signature, _message(domain, parsed.document))
    except (DecodeError, ValueError, InvalidSignature):
        raise IntegrityError(f"the signature of the {domain} does not hold") from None
    # Repeated or unknown fields around a good signature would be a second form of one document;
    # protobuf keeps unknown ones through a round trip unless told otherwise.
    parsed.DiscardUnknownFields()
    if parsed.SerializeToString(deterministic=True) != signed:
        raise IntegrityError(f"the signed {domain} carries bytes that were not signed")
    return bytes(parsed.document)
