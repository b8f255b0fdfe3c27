"""What is billed takes little memory each, for a bounded number, until its lease ends."""

import tracemalloc

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.gateway import requests
from prefill_data.gateway.claims import entry_of
from prefill_data.gateway.requests import Request, RequestBook
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import Place
from prefill_wire.limits import MAX_MANIFEST_BYTES
from prefill_wire.status import StatusCode

MOST_BYTES = 1000  # of one billed attempt; its record may have more than 256 KiB


def record(number, tenant="acme", expires_at_ms=100):
    """A record as it comes from the spool, none of its strings shared with another."""
    made = BilledAttempt(
        request_id=f"req_{number:026d}", attempt=1, tenant=tenant, key_id="key_acme",
        root=b"r" * 32, chunk_count=64, sealed_manifest=bytes(MAX_MANIFEST_BYTES),
        receipt=bytes(500), amount_micros=7, expires_at_ms=expires_at_ms, certificate=bytes(250),
        idempotency_key=f"{number:036d}", body_digest=number.to_bytes(32), accept=bytes(900),
    )  # fmt: skip
    return BilledAttempt.decode(made.encode())


def bill(book, *numbers, **fields):
    for number in numbers:
        found = record(number, **fields)
        request = Request(found.request_id, found.tenant, found.idempotency_key, found.body_digest)
        book.add(request)
        book.bill(entry_of(found, Place(number << 18, 1 << 18, 0)))


def bytes_each(keep, count):
    """Memory that `keep(number)` leaves behind, each."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            keep(number)
        return (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()


def test_a_billed_attempt_takes_little_memory_whatever_its_manifest():
    book, records = RequestBook(), []
    assert bytes_each(lambda n: bill(book, n), 2000) < MOST_BYTES
    # The twin: a record that is kept is seen.
    assert bytes_each(lambda n: records.append(record(n)), 20) > MAX_MANIFEST_BYTES


def test_leases_end_in_their_order_and_leave_nothing():
    book = RequestBook()
    for number, expires_at_ms in enumerate([30, 10, 20]):
        bill(book, number, expires_at_ms=expires_at_ms)
    there = []
    for now_ms in (9, 10, 20, 30):
        book.expire(now_ms)
        there.append(len(book))
    assert there == [3, 2, 1, 0]
    assert book.same("acme", f"{0:036d}", b"other") is None


def test_an_expired_entry_takes_no_successor_along():
    """An idempotency key may open another request once the first one's lease is over."""
    book = RequestBook()
    bill(book, 1, expires_at_ms=10)
    book.bill(entry_of(record(1, expires_at_ms=20), Place(0, 1, 0)))
    book.expire(10)
    assert book.find("acme", f"req_{1:026d}", 1).expires_at_ms == 20


@pytest.mark.parametrize(("name", "of_all"), [("MAX_HELD_PER_TENANT", False), ("MAX_HELD", True)])
def test_too_many_are_refused_before_anything_is_kept(monkeypatch, name, of_all):
    monkeypatch.setattr(requests, name, 3)
    book = RequestBook()
    bill(book, 1, 2, 3)
    with pytest.raises(DataPlaneError, match="the limit is 3") as caught:
        book.add(Request("req", "acme", "key", b"d"))
    assert caught.value.code is StatusCode.CAPACITY_EXHAUSTED
    assert caught.value.retry_after_ms
    assert len(book) == 3
    if of_all:
        with pytest.raises(DataPlaneError):
            bill(book, 4, tenant="bolt")
    else:
        bill(book, 4, tenant="bolt")
    book.expire(100)
    bill(book, 5)


def test_the_dead_are_forgotten_before_they_are_many(monkeypatch):
    monkeypatch.setattr(requests, "MAX_UNBILLED_PER_TENANT", 2)
    book = RequestBook()
    for number in range(5):
        dead = Request(f"req_{number}", "acme", f"{number}", b"d")
        book.add(dead)
        dead.current = Dead()
    assert len(book) == 2


class Dead:
    """An attempt that came to nothing."""

    death = DataPlaneError(StatusCode.CANCELLED, "cancelled")
