"""Keys and seals of one attempt.

HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM, single shot) carries one secret per attempt to the
SDK's one-time key; HKDF makes the keys for chunks, manifest and connection proof from it. The key
of the closing set is drawn apart and travels inside the manifest alone: no claim, no usable state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from prefill_wire.chunks import ChunkHeader
from prefill_wire.digests import key_hash
from prefill_wire.errors import IntegrityError
from prefill_wire.limits import SEAL_OVERHEAD_BYTES

KEY_BYTES = 32
_ENCAPSULATED_BYTES = 32
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_DOMAIN = b"prefill.cloud v1 "


def _fields(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists share an encoding."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What every seal of an attempt is bound to."""

    request_id: str
    attempt: int
    tenant: str
    prompt_digest: bytes
    _info: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Encoded once: every chunk is bound to it."""
        number = self.attempt.to_bytes(4, "little")
        fields = self.request_id.encode(), number, self.tenant.encode(), self.prompt_digest
        object.__setattr__(self, "_info", _DOMAIN + _fields(*fields))

    def info(self) -> bytes:
        """The binding, encoded without ambiguity."""
        return self._info


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attempt's secret, sealed to the one-time key."""

    encapsulated_key: bytes
    ciphertext: bytes


class OneTimeKey:
    """The SDK's half of an attempt: made for one request, never stored."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes_raw()
        self.key_hash = key_hash(self.public_bytes)

    @classmethod
    def generate(cls) -> OneTimeKey:
        """A fresh key from the operating system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> OneTimeKey:
        """The key with these 32 private bytes; for recorded exchanges."""
        return cls(X25519PrivateKey.from_private_bytes(data))

    def open_envelope(self, envelope: Envelope, context: AttemptContext) -> bytes:
        """The attempt's secret; `IntegrityError` unless it was sealed to this key and context."""
        sealed = envelope.encapsulated_key + envelope.ciphertext
        try:
            secret = _SUITE.decrypt(sealed, self._private, context.info())
        except (InvalidTag, ValueError):
            raise IntegrityError("the key envelope was not sealed to this request") from None
        if len(secret) != KEY_BYTES:
            raise IntegrityError(
                f"the attempt secret has {len(secret)} bytes, expected {KEY_BYTES}"
            )
        return secret


def seal_envelope(public_bytes: bytes, secret: bytes, context: AttemptContext) -> Envelope:
    """Seal an attempt's secret to a one-time public key of 32 bytes."""
    try:
        public = X25519PublicKey.from_public_bytes(public_bytes)
        sealed = _SUITE.encrypt(secret, public, context.info())
    except ValueError:
        raise IntegrityError("the one-time public key is not a usable X25519 key") from None
    return Envelope(sealed[:_ENCAPSULATED_BYTES], sealed[_ENCAPSULATED_BYTES:])


@dataclass(frozen=True, slots=True, repr=False)
class AttemptKeys:
    """The keys that both sides derive from the attempt's secret."""

    stream: bytes
    manifest: bytes
    connection: bytes

    @classmethod
    def derive(cls, secret: bytes, context: AttemptContext) -> AttemptKeys:
        """HKDF-SHA256 over the secret, one label a key, bound to the context."""

        extracted = HKDF.extract(hashes.SHA256(), None, secret)

        def key(label: bytes) -> bytes:
            info = _fields(label, context.info())
            return HKDFExpand(hashes.SHA256(), KEY_BYTES, info).derive(extracted)

        return cls(key(b"stream"), key(b"manifest"), key(b"connection"))


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "little")


def seal_chunk(key: bytes, context: AttemptContext, header: ChunkHeader, payload: bytes) -> bytes:
    """AES-256-GCM with the chunk's index as nonce: a (key, index) may be sealed once only."""
    data = context.info() + header.encode()
    return AESGCM(key).encrypt(_nonce(header.index), payload, data)


def open_chunk(
    key: bytes, context: AttemptContext, header: ChunkHeader, ciphertext: bytes | memoryview
) -> bytes:
    """The payload; `IntegrityError` when header, context, key or a byte is not what was sealed."""
    expected = header.payload_bytes + SEAL_OVERHEAD_BYTES
    if len(ciphertext) != expected:
        raise IntegrityError(f"chunk {header.index} has {len(ciphertext)} bytes, not {expected}")
    data = context.info() + header.encode()
    try:
        return AESGCM(key).decrypt(_nonce(header.index), ciphertext, data)
    except InvalidTag:
        raise IntegrityError(f"chunk {header.index} does not open under its key") from None


def seal_manifest(keys: AttemptKeys, context: AttemptContext, signed: bytes) -> bytes:
    """Seal the signed manifest; the key is used once, so the nonce is zero."""
    return AESGCM(keys.manifest).encrypt(_nonce(0), signed, context.info())


def open_manifest(keys: AttemptKeys, context: AttemptContext, sealed: bytes) -> bytes:
    """The signed manifest; `IntegrityError` when it was sealed for another attempt or changed."""
    try:
        return AESGCM(keys.manifest).decrypt(_nonce(0), sealed, context.info())
    except (InvalidTag, ValueError):
        raise IntegrityError("the manifest does not open under this attempt's key") from None
