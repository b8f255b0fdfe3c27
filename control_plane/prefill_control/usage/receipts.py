"""A gateway's receipts, checked and counted exactly once.

A receipt is believed when the control plane certified its worker, the worker signed it, and its
numbers can be. Its id is unique: inserted in the transaction that adds to the hourly sums, so a
replay, a retry and a crash between the two all count once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.message import DecodeError
from prefill_wire.certificate import WorkerCertificate, verify_certificate
from prefill_wire.errors import IdentityError, IntegrityError, LimitExceeded, WireError
from prefill_wire.limits import MAX_RECEIPT_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.receipt import UsageReceipt, verify_receipt

from prefill_control.usage import repository
from prefill_control.usage.models import Receipt, RequestRecord
from prefill_control.work import Work

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MAX_SKEW = dt.timedelta(minutes=5)
MAX_AMOUNT_MICROS = 10**15
_MS = dt.timedelta(milliseconds=1)


class Fate(StrEnum):
    """ACCEPTED and DUPLICATE let a gateway forget its copy; REFUSED is kept for people."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One line of a gateway's spool; the amount is what the caller was told at Claim."""

    receipt: bytes
    certificate: bytes
    amount_micros: int
    route_reason: str = ""
    outcome: str = "delivered"
    timeline: dict[str, int]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one line; `receipt_id` is empty when it could not be read."""

    receipt_id: str
    fate: Fate
    reason: str = ""


class _Refused(Exception):
    """Why a line is not believed; never leaves this module."""

    def __init__(self, receipt_id: str, reason: str) -> None:
        super().__init__(reason)
        self.receipt_id, self.reason = receipt_id, reason


async def ingest(work: Work, control_public: bytes, lines: Sequence[Delivered]) -> list[Judged]:
    """Judge every line, in order; all that is accepted becomes durable together."""
    judged: list[Judged | None] = [None] * len(lines)
    rows: dict[int, tuple[Receipt, RequestRecord]] = {}
    for index, line in enumerate(lines):
        try:
            receipt = _believed(control_public, line, work.now)
            rows[index] = (_row(receipt, line, work.now), _record(receipt, line))
        except _Refused as refusal:
            judged[index] = Judged(refusal.receipt_id, Fate.REFUSED, refusal.reason)
    known = await repository.known_tenants(work.session, {r.tenant_id for r, _ in rows.values()})
    fresh: list[Receipt] = []
    # One order of inserts for everybody: two gateways with the same lines wait, never deadlock.
    for index, (row, request) in sorted(rows.items(), key=lambda item: item[1][0].receipt_id):
        if row.tenant_id not in known:
            judged[index] = Judged(row.receipt_id, Fate.REFUSED, "its tenant does not exist")
            continue
        judged[index] = await _count(work, row, request)
        if judged[index] == Judged(row.receipt_id, Fate.ACCEPTED):
            fresh.append(row)
    await repository.add_to_hours(work.session, fresh)
    return [line for line in judged if line is not None]


async def _count(work: Work, row: Receipt, request: RequestRecord) -> Judged:
    """Insert unless it is there; the same id with another content is a forgery."""
    if await repository.insert_receipt(work.session, row):
        await repository.insert_request(work.session, request)
        return Judged(row.receipt_id, Fate.ACCEPTED)
    stored = await repository.signed_of(work.session, row.receipt_id)
    if stored == row.signed:
        return Judged(row.receipt_id, Fate.DUPLICATE)
    return Judged(row.receipt_id, Fate.REFUSED, "its id was used for another receipt")


def _believed(control_public: bytes, line: Delivered, now: dt.datetime) -> UsageReceipt:
    """The receipt of a line, or why it is refused."""
    now_ms = (now - EPOCH) // _MS
    try:
        certificate = _certified(control_public, line, now_ms)
        receipt = verify_receipt(certificate.public_key, line.receipt)
    except WireError as error:
        raise _Refused("", error.message) from None
    claims = {
        "worker": (receipt.worker_id, certificate.worker_id),
        "datacenter": (receipt.datacenter, certificate.datacenter),
    }
    for name, (said, certified) in claims.items():
        if said != certified:
            raise _Refused(receipt.receipt_id, f"{name} {said!r}, certified is {certified!r}")
    faults = {
        "it ends before it starts": receipt.finished_at_ms < receipt.started_at_ms,
        "it ends in the future": receipt.finished_at_ms > now_ms + MAX_SKEW // _MS,
        "more tokens cached than there are": receipt.cached_tokens > receipt.token_count,
        "its amount is out of range": not 0 <= line.amount_micros <= MAX_AMOUNT_MICROS,
        "it names no receipt": not receipt.receipt_id,
    }
    for reason, holds in faults.items():
        if holds:
            raise _Refused(receipt.receipt_id, reason)
    return receipt


def _certified(control_public: bytes, line: Delivered, now_ms: int) -> WorkerCertificate:
    """The worker's certificate if it holds now, or held when the prefill ended: a receipt that
    waited out an outage is worth no less."""
    try:
        return verify_certificate(control_public, line.certificate, now_ms)
    except IdentityError:
        then_ms = min(now_ms, _said_finished_ms(line.receipt))
        return verify_certificate(control_public, line.certificate, then_ms)


def _said_finished_ms(signed: bytes) -> int:
    """When the prefill ended, as a receipt says that nobody has verified yet."""
    if len(signed) > MAX_RECEIPT_BYTES:
        raise LimitExceeded.of("receipt, bytes", len(signed), MAX_RECEIPT_BYTES)
    try:
        document = prefill_pb2.SignedDocument.FromString(signed).document
        return int(prefill_pb2.UsageReceipt.FromString(document).finished_at_ms)
    except DecodeError:
        raise IntegrityError("the receipt cannot be parsed") from None


def _at(milliseconds: int) -> dt.datetime:
    return EPOCH + milliseconds * _MS


def _row(receipt: UsageReceipt, line: Delivered, now: dt.datetime) -> Receipt:
    return Receipt(
        receipt_id=receipt.receipt_id,
        tenant_id=receipt.tenant,
        request_id=receipt.request_id,
        attempt=receipt.attempt,
        fencing_epoch=receipt.fencing_epoch,
        key_id=receipt.key_id,
        model=receipt.model,
        model_fingerprint=receipt.model_fingerprint.hex(),
        datacenter=receipt.datacenter,
        worker_id=receipt.worker_id,
        token_count=receipt.token_count,
        cached_tokens=receipt.cached_tokens,
        state_bytes_raw=receipt.state_bytes_raw,
        state_bytes_sent=receipt.state_bytes_sent,
        amount_micros=line.amount_micros,
        started_at=_at(receipt.started_at_ms),
        finished_at=_at(receipt.finished_at_ms),
        signed=line.receipt,
        ingested_at=now,
    )


def _record(receipt: UsageReceipt, line: Delivered) -> RequestRecord:
    measured = {
        "queue_us": receipt.queue_us,
        "prefill_us": receipt.prefill_us,
        "encode_us": receipt.encode_us,
        "started_at_ms": receipt.started_at_ms,
        "finished_at_ms": receipt.finished_at_ms,
    }
    return RequestRecord(
        request_id=receipt.request_id,
        attempt=receipt.attempt,
        tenant_id=receipt.tenant,
        at=_at(receipt.started_at_ms),
        key_id=receipt.key_id,
        model=receipt.model,
        token_count=receipt.token_count,
        outcome=line.outcome,
        datacenter=receipt.datacenter,
        route_reason=line.route_reason,
        timeline={**line.timeline, **measured},
    )
