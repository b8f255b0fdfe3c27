"""Documents that one of our processes signs and others read: MessagePack in a SignedDocument."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from prefill_wire.errors import IntegrityError
from prefill_wire.signing import SigningKey, verify_document

T = TypeVar("T", bound=msgspec.Struct)


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of messages; a field that a reader does not know is refused."""


def encode(document: msgspec.Struct) -> bytes:
    """The one form of a document: equal values give equal bytes."""
    return msgspec.msgpack.encode(document, order="sorted")


def decode(data: bytes, kind: type[T], limit_bytes: int) -> T:
    """The document of these bytes; IntegrityError when too long or of another form."""
    if len(data) > limit_bytes:
        raise IntegrityError(f"{kind.__name__} has {len(data)} bytes, the limit is {limit_bytes}")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise IntegrityError(f"{kind.__name__} cannot be read: {error}") from None


def sign(key: SigningKey, domain: str, document: msgspec.Struct) -> bytes:
    """Signed bytes; a domain's signature is worth nothing in another."""
    return key.sign(domain, encode(document))


def open_signed(public: bytes, domain: str, signed: bytes, kind: type[T], limit_bytes: int) -> T:
    """The document when the signature holds; its size is checked before anything is parsed."""
    return decode(verify_document(public, domain, signed, limit_bytes), kind, limit_bytes)
