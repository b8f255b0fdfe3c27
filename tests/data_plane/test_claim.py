"""Claim: what was sealed, once, durably, to its owner; a full or failing disk bills nobody."""

import asyncio
import errno
import os
import sys
import threading
from dataclasses import replace

import pytest
from hand_client import HandClient, refused
from in_process_cloud import CONTROL, WORKER, Cloud, certificate, counted
from prefill_data.errors import DataPlaneError
from prefill_data.metering.commits import GroupCommit
from prefill_data.metering.frames import MAX_RECORD_BYTES
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import Spool, read_receipts
from prefill_wire.pb import prefill_pb2
from prefill_wire.receipt import sign_receipt, verify_receipt
from prefill_wire.signing import SigningKey
from prefill_wire.status import StatusCode

S = StatusCode
SPOOL = "prefill_data.metering.spool.os"


@pytest.mark.parametrize(
    "changes",
    [{"root": b"r" * 32}, {"root": b""}, {"chunk_count": 0}, {"chunk_count": 99}],
    ids=str,
)
async def test_other_chunks_than_were_sealed_are_refused(cloud, customer, changes):
    hand = customer()
    chunks = await hand.through()
    async with refused(S.ROOT_MISMATCH) as detail:
        await hand.claim(chunks, **changes)
    assert detail.request_id == hand.accept.request_id
    assert cloud.receipts == []
    await hand.claim(chunks)
    async with refused(S.ROOT_MISMATCH):  # also of what was billed
        await hand.claim(chunks, **changes)
    assert len(cloud.receipts) == 1


async def test_a_claim_before_the_end_waits_for_it(cloud, customer):
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    await hand.prompt()
    early = cloud.stub.Claim(early_request(hand), metadata=hand.metadata)
    await cloud.backend.until(lambda b: len(b.steps) == 1)
    assert not early.done()
    cloud.backend.release()
    async with refused(S.ROOT_MISMATCH):
        await early
    await hand.claim(await hand.download())


def early_request(hand):
    return prefill_pb2.ClaimRequest(
        request_id=hand.accept.request_id, attempt=1, root=b"r" * 32, chunk_count=3
    )


@pytest.mark.parametrize("prompted", [False, True])
async def test_a_claim_of_what_never_ends_is_refused_at_the_deadline(cloud, customer, prompted):
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    if prompted:
        await hand.prompt()
    arrived, find = asyncio.Event(), cloud.parts.book.find
    cloud.parts.book.find = lambda *given: (arrived.set(), find(*given))[1]
    claiming = cloud.stub.Claim(early_request(hand), metadata=hand.metadata)
    await arrived.wait()
    cloud.clock.advance(31)
    cloud.sweep()
    async with refused(S.DEADLINE_EXCEEDED):
        await claiming
    assert cloud.receipts == []


async def test_twice_and_at_once_is_one_receipt_and_the_same_bytes(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    answers = await asyncio.gather(*(hand.claim(chunks) for _ in range(10)))
    answers.append(await hand.claim(chunks))
    assert all(answer == answers[0] for answer in answers)
    assert len(cloud.receipts) == 1
    assert counted(cloud.parts.metrics.receipts) == 1
    assert counted(cloud.parts.metrics.tokens) == 20


@pytest.fixture
def slow_disk(monkeypatch):
    """fsync waits until a test lets it."""
    began, go, whole = threading.Event(), threading.Event(), os.fsync

    def fsync(file):
        began.set()
        go.wait(10)
        whole(file)

    monkeypatch.setattr(f"{SPOOL}.fsync", fsync)
    yield began, go
    go.set()


async def test_a_claimer_that_leaves_during_the_write_and_comes_again_is_billed_once(
    cloud, customer, slow_disk
):
    began, go = slow_disk
    hand = customer()
    chunks = await hand.through()
    leaving = asyncio.create_task(hand.claim(chunks))
    await asyncio.to_thread(began.wait, 10)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await hand.cancel()  # what the SDK sends then; it cannot take back what goes to disk
    again = asyncio.create_task(hand.claim(chunks))
    assert (await hand.open()).accept.attempt == 1
    go.set()
    answer = await again
    assert len(cloud.receipts) == 1
    assert BilledAttempt.decode(cloud.receipts[0]).receipt == answer.receipt
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == 0


async def test_nothing_is_released_before_it_is_durable(cloud, customer, slow_disk):
    began, go = slow_disk
    hand = customer()
    claiming = asyncio.create_task(hand.claim(await hand.through()))
    await asyncio.to_thread(began.wait, 10)
    assert not claiming.done()
    assert len(cloud.attempts) == 1  # nor are the chunks freed
    go.set()
    await claiming


async def test_another_tenants_state_cannot_be_claimed(cloud, customer):
    owner = customer()
    chunks = await owner.through()
    thief = HandClient(cloud, "bolt", one_time=owner.one_time, accept=owner.accept, keys=owner.keys)
    for _ in range(2):
        async with refused(S.ATTEMPT_NOT_FOUND):
            await cloud.stub.Claim(owner.claim_request(chunks), metadata=thief.metadata)
        if not cloud.receipts:
            await owner.claim(chunks)  # neither before nor after its owner did
    assert len(cloud.receipts) == 1


def grown(receipt, **changes):
    return replace(receipt, **{name: change(getattr(receipt, name)) for name, change in
                               changes.items()})  # fmt: skip


LIES = {
    "more tokens": {"token_count": lambda n: n + 1},
    "fewer tokens": {"token_count": lambda n: n - 1},
    "more bytes": {"state_bytes_raw": lambda n: n + 1},
    "another model": {"model": lambda _: "big"},
    "another fingerprint": {"model_fingerprint": lambda _: b"x" * 32},
    "another tenant": {"tenant": lambda _: "bolt"},
    "another key": {"key_id": lambda _: "key_bolt"},
    "another request": {"request_id": lambda _: "req_" + "0" * 26},
    "another attempt": {"attempt": lambda n: n + 1},
    "another epoch": {"fencing_epoch": lambda n: n - 1},
    "another worker": {"worker_id": lambda _: "w2"},
    "another datacenter": {"datacenter": lambda _: "us"},
    "another root": {"root": lambda _: b"r" * 32},
    "more cached than there are": {"cached_tokens": lambda _: 21},
    "an end before its start": {"started_at_ms": lambda n: n + 10**9},
    "an end in the future": {"finished_at_ms": lambda n: n + 301_000},
    "an end after its certificate's": {"finished_at_ms": lambda n: n + 2 * 10**10},
    "no receipt": {"receipt_id": lambda _: ""},
}


async def replaced_receipt(cloud, hand, make):
    """The worker's last word with another receipt in it."""
    attempt = cloud.parts.book.find(hand.tenant, hand.accept.request_id, 1)
    finished = await attempt.finished
    finished.receipt = make(verify_receipt(WORKER.public_bytes, finished.receipt))
    return finished


@pytest.mark.parametrize("name", LIES)
async def test_a_receipt_that_bills_otherwise_is_refused(cloud, customer, name):
    hand = customer()
    chunks = await hand.through()
    honest = []

    def lie(receipt):
        honest.append(receipt)
        return sign_receipt(WORKER, grown(receipt, **LIES[name]))

    finished = await replaced_receipt(cloud, hand, lie)
    async with refused(S.RECEIPT_REFUSED):
        await hand.claim(chunks)
    assert cloud.receipts == []
    finished.receipt = sign_receipt(WORKER, honest[0])
    await hand.claim(chunks)  # the twin


async def test_a_prefill_that_outlives_its_workers_certificate_is_not_delivered(cloud, customer):
    """The control plane counts what was signed in time: whatever else is delivered is not paid."""
    hand = customer()
    chunks = await hand.through()
    attempt = cloud.parts.book.find(hand.tenant, hand.accept.request_id, 1)
    finished = await attempt.finished
    ended_ms = verify_receipt(WORKER.public_bytes, finished.receipt).finished_at_ms
    admitted = attempt.admitted
    for not_after_ms, claimable in ((ended_ms, False), (ended_ms + 1, True)):
        held = replace(admitted.certificate, not_after_ms=not_after_ms)
        attempt.admitted = replace(admitted, certificate=held)
        if claimable:
            await hand.claim(chunks)
            continue
        async with refused(S.RECEIPT_REFUSED) as detail:
            await hand.claim(chunks)
        assert "certificate" in detail.message
        assert cloud.receipts == []


@pytest.mark.parametrize(("valid_ms", "given_ms"), [(10_000, 10_000), (90_000, 30_000)])
async def test_no_attempt_is_given_longer_than_its_workers_certificate(
    tmp_path, tidy, valid_ms, given_ms
):
    cloud = Cloud(tmp_path)
    begun_ms = cloud.clock()
    until = certificate(begun_ms, not_after_ms=begun_ms + valid_ms)
    cloud.worker_settings = replace(cloud.worker_settings, certificate=until)
    cloud.clock = lambda: begun_ms
    async with cloud:
        hand = HandClient(cloud)
        await hand.open(deadline_ms=30_000)
        admitted = cloud.parts.book.find("acme", hand.accept.request_id, 1).admitted
        assert admitted.deadline_at_ms - begun_ms == given_ms
        await hand.cancel()


@pytest.mark.parametrize("key", [CONTROL, SigningKey.from_seed(b"x" * 32)])
async def test_a_receipt_signed_by_another_is_refused(cloud, customer, key):
    hand = customer()
    chunks = await hand.through()
    await replaced_receipt(cloud, hand, lambda receipt: sign_receipt(key, receipt))
    async with refused(S.INTEGRITY_FAILURE):
        await hand.claim(chunks)
    assert cloud.receipts == []


async def test_a_full_spool_disk_is_typed_and_the_claim_works_again(cloud, customer, monkeypatch):
    hand = customer()
    chunks = await hand.through()
    whole = os.pwrite

    def full(file, data, at):
        whole(file, data[:10], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"{SPOOL}.pwrite", full)
    async with refused(S.STORAGE_EXHAUSTED) as detail:
        await hand.claim(chunks)
    assert "No space left" in detail.message
    assert (cloud.folder / "spool" / "receipts.spool").stat().st_size == 0
    assert not cloud.stop.is_set()
    monkeypatch.undo()
    await hand.claim(chunks)
    assert len(cloud.receipts) == 1


async def test_a_failed_fsync_ends_the_process_and_nothing_is_appended_after_it(
    cloud, customer, monkeypatch, caplog
):
    one, two = customer(key="1"), customer(key="2")
    chunks = [await one.through(), await two.through()]

    def broken(file):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(f"{SPOOL}.fsync", broken)
        async with refused(S.STORAGE_EXHAUSTED) as detail:
            await one.claim(chunks[0])
    assert "Input/output" in detail.message
    assert cloud.stop.is_set()
    size = (cloud.folder / "spool" / "receipts.spool").stat().st_size
    for hand, held in zip((one, two), chunks, strict=True):
        async with refused(S.STORAGE_EXHAUSTED):
            await hand.claim(held)
    assert (cloud.folder / "spool" / "receipts.spool").stat().st_size == size


async def test_claims_that_wait_for_the_disk_share_its_next_turn(cloud, customer, monkeypatch):
    hands = [customer(key=str(n)) for n in range(6)]
    chunks = [await hand.through() for hand in hands]
    began, go, synced, whole = threading.Event(), threading.Event(), [], os.fsync

    def fsync(file):
        synced.append(file)
        began.set()
        assert go.wait(10), "nobody let the disk go on"
        whole(file)

    monkeypatch.setattr(f"{SPOOL}.fsync", fsync)
    waiting, append = asyncio.Semaphore(0), cloud.parts.claims._commits.append

    def seen(*given):
        waiting.release()
        return append(*given)

    cloud.parts.claims._commits.append = seen
    claims = [asyncio.create_task(hands[0].claim(chunks[0]))]
    await asyncio.to_thread(began.wait, 10)
    pairs = zip(hands[1:], chunks[1:], strict=True)
    claims += [asyncio.create_task(hand.claim(held)) for hand, held in pairs]
    for _ in hands:
        await waiting.acquire()
    go.set()
    answers = await asyncio.gather(*claims)
    assert len(synced) == 2
    billed = [BilledAttempt.decode(body) for body in cloud.receipts]
    assert [each.receipt for each in billed] == [answer.receipt for answer in answers]
    await cloud.stop_gateway()
    await cloud.start_gateway()
    for hand, held, answer in zip(hands, chunks, answers, strict=True):
        assert await hand.claim(held) == answer


async def test_what_does_not_fit_with_others_is_written_by_itself(tmp_path, monkeypatch):
    """Almost full: the group is too large for the disk, two of its records are not."""
    spool, whole, write = Spool(tmp_path), os.pwrite, threading.Event()
    commits = GroupCommit(spool)

    def almost_full(file, data, at):
        assert write.wait(10)
        if len(data) > 300:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, data, at)

    monkeypatch.setattr(f"{SPOOL}.pwrite", almost_full)
    bodies = [b"first", b"a" * 200, b"b" * 400, b"c" * 200]
    tasks = [asyncio.create_task(commits.append(body, 0)) for body in bodies]
    await asyncio.sleep(0)
    write.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, DataPlaneError) for each in found] == [False, False, True, False]
    assert found[2].code is S.STORAGE_EXHAUSTED
    assert [spool.read(found[n]) for n in (0, 1, 3)] == [bodies[n] for n in (0, 1, 3)]
    commits.close()
    assert read_receipts(tmp_path) == [bodies[n] for n in (0, 1, 3)]


async def test_claims_that_no_thread_can_write_hear_it(tmp_path):
    commits = GroupCommit(Spool(tmp_path))
    commits.close()  # its thread is gone, and so is whoever would have answered
    alone = bytes(MAX_RECORD_BYTES)  # a group of its own: more groups than a stack has frames
    async with asyncio.timeout(10):
        told = await asyncio.gather(
            *(commits.append(alone, 0) for _ in range(sys.getrecursionlimit())),
            return_exceptions=True,
        )
    assert all(isinstance(error, RuntimeError) for error in told)
