"""Same key and body: the same attempt. Other body: conflict. A dead attempt: the next number."""

import asyncio
from dataclasses import replace

import msgspec
import pytest
from hand_client import refused
from prefill_data.errors import DataPlaneError
from prefill_data.metering.record import RECORD_VERSION, BilledAttempt
from prefill_data.metering.segments import SPOOL_FILE
from prefill_data.metering.spool import Spool
from prefill_wire.pb import prefill_pb2
from prefill_wire.sealing import OneTimeKey
from prefill_wire.status import StatusCode

S = StatusCode


async def test_the_same_open_gets_the_same_accept(cloud, customer):
    hand = customer()
    first = await hand.open()
    assert await hand.open(deadline_ms=5_000) == first  # the time left is no part of the body
    assert len(cloud.attempts) == 1


async def test_racing_opens_get_one_attempt(cloud, customer):
    hand = customer()
    answers = await asyncio.gather(*(hand.open() for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert len(cloud.attempts) == len(cloud.parts.book) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"one_time_public_key": OneTimeKey.generate().public_bytes},
        {"prompt_digest": b"d" * 32},
        {"token_count": 21},
        {"max_price_micros": 1000},
        {"codecs": ["raw"]},
        {"residency": ["eu"]},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_the_same_key_with_another_body_is_a_conflict(customer, changes):
    hand = customer()
    accept = (await hand.open()).accept
    async with refused(S.IDEMPOTENCY_CONFLICT) as detail:
        await customer(one_time=hand.one_time).open(**changes)
    assert accept.request_id in detail.message
    assert (await hand.open()).accept == accept
    await customer("bolt", one_time=hand.one_time).open(**changes)  # another tenant's key


async def test_a_dead_attempt_is_replaced_and_its_zombie_fenced(cloud, customer):
    zombie = customer()
    await zombie.open()
    await zombie.cancel()
    fresh = customer(one_time=zombie.one_time)
    await fresh.open()
    assert fresh.accept.request_id == zombie.accept.request_id
    assert (zombie.accept.attempt, fresh.accept.attempt) == (1, 2)
    for act in (zombie.prompt, zombie.cancel, lambda: claim(cloud, zombie)):
        async with refused(S.ATTEMPT_FENCED) as detail:
            await act()
        assert detail.request_id == fresh.accept.request_id
    assert cloud.backend.submits == []
    await fresh.prompt()
    await fresh.claim(await fresh.download())
    assert len(cloud.receipts) == 1


async def claim(cloud, hand, **changes):
    fields = {"request_id": hand.accept.request_id, "attempt": hand.accept.attempt, **changes}
    request = prefill_pb2.ClaimRequest(**fields, root=b"r" * 32, chunk_count=3)
    return await cloud.stub.Claim(request, metadata=hand.metadata)


async def test_a_zombie_that_computed_cannot_claim_after_its_fence(cloud, customer):
    zombie = customer()
    chunks = await zombie.through()
    await zombie.cancel()
    fresh = customer(one_time=zombie.one_time)
    assert (await fresh.open()).accept.attempt == 2
    async with refused(S.ATTEMPT_FENCED):
        await zombie.claim(chunks)
    await fresh.prompt()
    await fresh.claim(await fresh.download())
    assert len(cloud.receipts) == 1


async def test_a_cancelled_attempt_cannot_be_claimed_and_a_claimed_one_not_cancelled(
    cloud, customer
):
    hand = customer()
    chunks = await hand.through()
    await hand.cancel()
    async with refused(S.CANCELLED):
        await hand.claim(chunks)
    assert cloud.receipts == []
    other = customer(key="other")
    chunks = await other.through()
    claim = await other.claim(chunks)
    await other.cancel()
    assert await other.claim(chunks) == claim
    assert (await other.open()).accept.attempt == 1


async def test_another_tenants_ids_look_like_ids_that_never_were(cloud, customer):
    owner, thief = customer(), customer("bolt")
    await owner.open()
    thief.accept = owner.accept
    answers = []
    for request_id in (owner.accept.request_id, "req_" + "0" * 26):
        for act in (
            lambda: thief.prompt([prefill_pb2.PromptPart(request_id=request_id, attempt=1)]),  # noqa: B023
            lambda: thief.cancel(request_id=request_id),  # noqa: B023
            lambda: claim(cloud, thief, request_id=request_id),  # noqa: B023
        ):
            async with refused(S.ATTEMPT_NOT_FOUND) as detail:
                await act()
            answers.append(str(detail).replace(request_id, "ID"))
    assert len(set(answers)) == 1
    await owner.prompt()  # the twin: its owner finds it


@pytest.mark.parametrize("number", [0, 2, 99, 2**32 - 1])
async def test_an_attempt_number_that_was_never_given_is_not_found(customer, number):
    hand = customer()
    await hand.open()
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.cancel(attempt=number)


async def test_an_open_that_waits_outlives_the_one_that_is_cancelled(cloud, customer):
    """The first Open leaves while a worker is asked: nothing stays reserved for it, the second
    one gets an attempt that can be used."""
    hand, asked, go = customer(), asyncio.Event(), asyncio.Event()
    link = cloud.parts.fleet.links[0]
    admit = link.admit

    async def slow(request):
        asked.set()
        capability = await admit(request)
        await go.wait()
        return capability

    link.admit = slow
    first = asyncio.create_task(hand.open())
    await asked.wait()
    book, found = cloud.parts.book, asyncio.Event()
    same = book.same
    book.same = lambda *given: (found.set(), same(*given))[1]
    second = asyncio.create_task(customer(one_time=hand.one_time).open())
    await found.wait()
    first.cancel()
    go.set()
    accept = (await second).accept
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == 1
    hand.accept = accept
    await hand.prompt()
    await hand.claim(await hand.download())


async def test_an_attempt_number_is_used_once_even_when_the_answer_is_lost(cloud, customer):
    """A worker that admitted and was not heard must not fence the next attempt for good."""
    hand = customer()
    await hand.open()
    await hand.cancel()
    link = cloud.parts.fleet.links[0]
    admit, lose = link.admit, True

    async def lossy(request):
        nonlocal lose
        capability = await admit(request)
        if lose:
            lose = False
            raise DataPlaneError(S.WORKER_LOST, "the answer was lost")
        return capability

    link.admit = lossy
    async with refused(S.WORKER_LOST):
        await hand.open()
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == 0
    assert (await hand.open()).accept.attempt == 3
    await hand.prompt()
    await hand.claim(await hand.download())


async def restarted(cloud):
    await cloud.stop_gateway()
    await cloud.start_gateway()


async def test_what_is_billed_is_answered_the_same_after_a_restart(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    accept, claimed = hand.accept, await hand.claim(chunks)
    envelope = await hand.prompt()
    for again in (False, True):
        if again:
            await restarted(cloud)
        assert (await hand.open()).accept == accept
        assert await hand.prompt() == envelope
        assert await hand.claim(chunks) == claimed
        await hand.cancel()  # changes nothing
        async with refused(S.IDEMPOTENCY_CONFLICT) as detail:
            await hand.open(token_count=21)
        assert accept.request_id in detail.message
    assert len(cloud.receipts) == 1
    hand.accept = accept
    other = customer("bolt", one_time=hand.one_time)  # the twin: another tenant's same key
    await other.claim(await other.through())
    assert len(cloud.receipts) == 2


async def test_a_billed_request_is_answered_by_a_gateway_that_has_no_worker_left(cloud, customer):
    hand = customer()
    await hand.claim(await hand.through())
    accept = hand.accept
    cloud.gateway_settings = replace(cloud.gateway_settings, workers=("127.0.0.1:1",))
    await restarted(cloud)
    assert (await hand.open()).accept == accept
    async with refused(S.NO_DATACENTER):  # the twin: what is new needs one
        await customer(key="new").open()


async def test_the_same_key_after_the_lease_is_a_new_request(cloud, customer):
    hand = customer()
    await hand.claim(await hand.through())
    first = hand.accept
    await restarted(cloud)
    cloud.clock.advance(1000)
    cloud.sweep()
    await hand.open(token_count=20)
    assert hand.accept.request_id != first.request_id
    assert len(cloud.parts.book) == 1


async def test_what_was_open_at_a_restart_is_another_request_and_its_zombie_is_no_ones(
    cloud, customer
):
    zombie = customer()
    chunks = await zombie.through()
    await restarted(cloud)
    fresh = customer(one_time=zombie.one_time)
    await fresh.open()
    assert fresh.accept.request_id != zombie.accept.request_id
    assert fresh.accept.fencing_epoch > zombie.accept.fencing_epoch
    async with refused(S.ATTEMPT_NOT_FOUND):
        await zombie.claim(chunks)
    await fresh.prompt()
    await fresh.claim(await fresh.download())
    assert len(cloud.receipts) == 1


async def test_a_record_of_an_older_gateway_is_claimed_and_its_key_is_new(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    claimed = await hand.claim(chunks)
    await cloud.stop_gateway()
    folder = cloud.folder / "spool"
    (record,) = cloud.receipts
    old = msgspec.msgpack.decode(record)
    for name in ("idempotency_key", "body_digest", "accept", "envelope"):
        del old[name]
    (folder / SPOOL_FILE).unlink()
    spool = Spool(folder)
    spool.append_all([msgspec.msgpack.encode({**old, "version": 1})], 0)
    spool.close()
    await cloud.start_gateway()
    assert await hand.claim(chunks) == claimed
    first = hand.accept
    await hand.open()
    assert hand.accept.request_id != first.request_id


def test_a_record_of_a_newer_gateway_is_refused():
    fields = {"request_id": "r", "attempt": 1, "tenant": "t", "key_id": "k", "root": b"",
              "chunk_count": 1, "sealed_manifest": b"", "receipt": b"", "amount_micros": 1,
              "expires_at_ms": 1}  # fmt: skip
    assert BilledAttempt.decode(BilledAttempt(**fields).encode()).version == RECORD_VERSION
    newer = BilledAttempt(**fields, version=RECORD_VERSION + 1)
    with pytest.raises(DataPlaneError, match=f"version {RECORD_VERSION + 1}"):
        BilledAttempt.decode(newer.encode())
