"""Receipts on their way from a gateway's spool to the control plane, and the answer.

Sent at least once; the receipt's id makes it count once.
"""

from __future__ import annotations

from enum import StrEnum

from prefill_wire.errors import IdentityError, IntegrityError

from prefill_fleet.credential import Credential, Identity, Role, open_sealed, seal
from prefill_fleet.documents import Document, decode, encode

PATH = "/internal/v1/receipts"
CONTENT_TYPE = "application/vnd.prefill.shipment"
MAX_RECEIPTS = 256
MAX_SHIPMENT_BYTES = 8 << 20
FRESH_MS = 120_000  # an older shipment is refused: a copy of it is worth nothing after that
_DOMAIN = "receipt shipment"


class ShippedReceipt(Document, frozen=True, kw_only=True):
    """A signed receipt, the certificate of the worker that signed it, what was told at Claim."""

    receipt: bytes
    certificate: bytes
    amount_micros: int


class Shipment(Document, frozen=True, kw_only=True):
    """Receipts of one gateway in the order of its spool."""

    gateway_id: str
    sent_at_ms: int
    receipts: tuple[ShippedReceipt, ...]


class Outcome(StrEnum):
    """What became of one receipt; all three are final."""

    COUNTED = "counted"
    KNOWN = "known"
    REFUSED = "refused"


class ReceiptAnswer(Document, frozen=True, kw_only=True):
    """`reason` says why a receipt was refused."""

    outcome: Outcome
    reason: str = ""


class ShipmentAnswer(Document, frozen=True, kw_only=True):
    """One answer a receipt, in the same order."""

    answers: tuple[ReceiptAnswer, ...]


def seal_shipment(credential: Credential, shipment: Shipment) -> bytes:
    """Signed by the gateway."""
    return seal(credential, _DOMAIN, encode(shipment))


def open_shipment(control_public: bytes, sealed: bytes, now_ms: int) -> tuple[Identity, Shipment]:
    """The shipment and its gateway; WireError unless a gateway signed it, lately."""
    identity, body = open_sealed(control_public, _DOMAIN, sealed, now_ms, MAX_SHIPMENT_BYTES)
    shipment = decode(body, Shipment, MAX_SHIPMENT_BYTES)
    if identity.role is not Role.GATEWAY or shipment.gateway_id != identity.name:
        raise IdentityError(f"{identity.name} is not the gateway of this shipment")
    if abs(now_ms - shipment.sent_at_ms) > FRESH_MS:
        raise IdentityError(f"a shipment of {identity.name} sent at {shipment.sent_at_ms} ms")
    if len(shipment.receipts) > MAX_RECEIPTS:
        raise IntegrityError(f"{len(shipment.receipts)} receipts, the limit is {MAX_RECEIPTS}")
    return identity, shipment


def encode_answer(answer: ShipmentAnswer) -> bytes:
    """As the body of the response."""
    return encode(answer)


def decode_answer(data: bytes) -> ShipmentAnswer:
    """WireError when it is of another form."""
    return decode(data, ShipmentAnswer, MAX_SHIPMENT_BYTES)
