"""Prompt: exactly the tokens that were opened, once; whatever breaks frees everything."""

import asyncio

import grpc
import numpy as np
import pytest
from hand_client import HandClient, refused
from in_process_cloud import KEYS
from prefill_wire.digests import token_bytes
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode
from stand_in_backend import VOCABULARY, state_of

S = StatusCode
LONG = np.arange(600_000, dtype=np.uint32) % VOCABULARY  # three parts
MANY_TIMES = 16


def other_last(data):
    """The prompt with another last token."""
    return data[:-4] + (7).to_bytes(4, "little")


SPOILT = {
    "nothing": lambda data: b"",
    "one token less": lambda data: data[:-4],
    "one byte less": lambda data: data[:-1],
    "one token more": lambda data: data + data[:4],
    "another token": other_last,
    "other order": lambda data: data[4:8] + data[:4] + data[8:],
}


@pytest.mark.parametrize("name", SPOILT)
async def test_another_prompt_is_refused_and_nothing_stays(cloud, customer, log_lines, name):
    hand = customer()
    await hand.open()
    data = SPOILT[name](token_bytes(hand.tokens))
    async with refused(S.PROMPT_MISMATCH) as detail:
        await hand.prompt(list(hand.parts(data=data)))
    assert detail.request_id == hand.accept.request_id
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0
    assert cloud.backend.submits == []
    first = hand.accept
    await hand.open()
    assert (hand.accept.request_id, hand.accept.attempt) == (first.request_id, 2)
    await hand.claim(await after_prompt(hand))  # the twin: the right one passes


async def after_prompt(hand):
    await hand.prompt()
    return await hand.download()


async def test_a_token_beyond_the_vocabulary_is_refused_by_position_not_by_id(cloud, customer):
    hand = customer(tokens=np.array([5, VOCABULARY - 1, 31337, 3], np.uint32))
    await hand.open()
    async with refused(S.TOKEN_OUT_OF_RANGE) as detail:
        await hand.prompt()
    assert "position 2" in detail.message
    assert "31337" not in detail.message
    await customer(key="twin", tokens=np.array([5, VOCABULARY - 1, 3], np.uint32)).through()


async def test_a_part_over_its_limit_is_refused(cloud, customer):
    hand = customer(tokens=LONG)
    await hand.open()
    async with refused(S.PROMPT_MISMATCH) as detail:
        await hand.prompt(list(hand.parts(size=(1 << 20) + 4)))
    assert "1048576" in detail.message
    await hand.open()
    await hand.prompt()


async def test_an_unknown_attempt_is_refused_before_its_prompt_is_read(cloud, customer):
    hand = customer()
    await hand.open()
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.prompt([prefill_pb2.PromptPart(request_id="req_no", attempt=1)])
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.prompt([])  # not even one part


async def test_the_prompt_sent_twice_gets_the_same_envelope(cloud, customer):
    hand = customer()
    await hand.open()
    assert await hand.prompt() == await hand.prompt()
    await cloud.backend.until(lambda b: len(b.steps) >= 1)
    assert len(cloud.backend.submits) == 1


async def test_a_prompt_while_the_first_is_on_its_way_is_fenced(cloud, customer):
    hand, more = customer(), asyncio.Event()
    await hand.open()
    data, seen = token_bytes(hand.tokens), asyncio.Event()

    async def slow():
        for part in hand.parts(data=data[:40]):
            yield part
        seen.set()
        await more.wait()
        yield prefill_pb2.PromptPart(token_ids=data[40:])

    first = asyncio.create_task(hand.prompt(slow()))
    await seen.wait()
    await prompted(cloud, hand)
    async with refused(S.ATTEMPT_FENCED):
        await hand.prompt()
    more.set()
    await first


async def prompted(cloud, hand):
    """Waits until the gateway works on the attempt's prompt."""
    accept = hand.accept
    attempt = cloud.parts.book.find(hand.tenant, accept.request_id, accept.attempt)
    worker_side = cloud.attempts.find(accept.request_id, accept.attempt)
    async with asyncio.timeout(10):
        while not (attempt.prompted and worker_side.phase.name == "RUNNING"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["client leaves", "cancel", "deadline", "lease", "worker gone"])
async def test_a_prompt_broken_off_frees_everything(cloud, customer, how):
    """However it ends in the middle, the call ends, worker and gateway keep nothing of it."""
    hand, never = customer(tokens=LONG), asyncio.Event()
    await hand.open()

    async def stuck():
        yield next(iter(hand.parts()))
        await never.wait()

    sending = asyncio.create_task(hand.prompt(stuck()))
    await prompted(cloud, hand)
    expected = {"cancel": S.CANCELLED, "deadline": S.DEADLINE_EXCEEDED, "lease": S.LEASE_EXPIRED,
                "worker gone": S.WORKER_LOST}  # fmt: skip
    if how == "client leaves":
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await hand.cancel()  # comes after the broken call at the gateway, as it does from the SDK
    else:
        if how == "cancel":
            await hand.cancel()
        elif how == "worker gone":
            await cloud.stop_worker()
        else:
            cloud.clock.advance(31 if how == "deadline" else 10_000)
            cloud.parts.end_overdue(cloud.clock())
        async with refused(expected[how]):
            await sending
    await cloud.parts.opener.settle()
    if how != "worker gone":
        assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0
    assert cloud.backend.submits == []
    never.set()


async def test_a_prompt_for_a_dead_attempt_says_why_it_died(cloud, customer):
    hand = customer()
    await hand.open()
    cloud.clock.advance(31)
    cloud.sweep()
    async with refused(S.DEADLINE_EXCEEDED):
        await hand.prompt()


async def test_a_prompt_that_never_begins_is_ended(cloud, customer, monkeypatch):
    monkeypatch.setattr("prefill_data.gateway.service.FIRST_PART_SECONDS", 0.01)

    over = asyncio.Event()

    async def nothing():
        await over.wait()
        return
        yield

    async with refused(S.DEADLINE_EXCEEDED):
        await customer().prompt(nothing())
    over.set()


async def test_a_million_tokens_pass_the_limits(cloud, customer):
    tokens = np.arange(1 << 20, dtype=np.uint32) % VOCABULARY
    cloud.backend.step_tokens = 1 << 18
    hand = customer(tokens=tokens)
    chunks = await hand.through()
    claim = await hand.claim(chunks)
    receiver = hand.receiver()
    for chunk in chunks:
        receiver.accept(chunk.header, chunk.ciphertext)
    state = receiver.close(claim.sealed_manifest, claim.receipt, cloud.clock())
    for key, tensor in state_of(tokens).items():
        np.testing.assert_array_equal(state.tensors[key], tensor)


async def test_a_message_over_the_limit_does_not_reach_the_gateway(cloud, customer):
    hand = customer()
    await hand.open()
    part = next(iter(hand.parts(data=bytes(9 << 20), size=9 << 20)))
    options = (("grpc.max_send_message_length", -1),)
    async with grpc.aio.insecure_channel(cloud.endpoint, options) as channel:
        call = channel.stream_unary(
            "/prefill.v1.PrefillGateway/Prompt",
            request_serializer=prefill_pb2.PromptPart.SerializeToString,
            response_deserializer=prefill_pb2.PromptResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(iter([part]), metadata=(("authorization", f"Bearer {KEYS['acme']}"),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await hand.prompt()


async def test_the_gateway_holds_one_part_of_a_prompt_at_a_time(cloud, customer):
    """A worker that does not read holds the sender back: nothing piles up between them."""
    hand = customer(tokens=np.arange(1 << 20, dtype=np.uint32) % VOCABULARY)
    await hand.open()
    link, written = cloud.parts.fleet.links[0], []
    run = link.stub.Run

    class Stuck:
        """The worker's call, whose writes never end."""

        def __init__(self, call):
            self._call = call

        async def write(self, message):
            written.append(len(message.token_ids))
            await asyncio.Event().wait()

        def __getattr__(self, name):
            return getattr(self._call, name)

    link.stub.Run = lambda **options: Stuck(run(**options))
    taken = []

    async def parts():
        """Beyond what gRPC's own window may grow to while the gateway takes the first."""
        for part in [*hand.parts(size=64 << 10)] * MANY_TIMES:
            taken.append(part)
            yield part

    sending = asyncio.create_task(hand.prompt(parts()))
    async with asyncio.timeout(10):
        while not written:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await hand.cancel()
    with pytest.raises(grpc.aio.AioRpcError):
        await sending  # gRPC may hide why, behind a part that it could not send any more
    async with refused(S.CANCELLED):
        await hand.prompt()
    assert written == [64 << 10]
    assert len(taken) < 64 * MANY_TIMES  # HTTP/2's window, not all there is
    assert isinstance(hand, HandClient)
