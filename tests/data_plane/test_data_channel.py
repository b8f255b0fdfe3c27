"""The data channel: resumes at every index, serves its owner alone, stands floods and silence."""

from dataclasses import replace

import pytest
from hand_client import HandClient
from in_process_cloud import Cloud, counted
from prefill_wire.capability import Capability, issue_capability
from prefill_wire.channel import Failed, Ready, Refused
from prefill_wire.errors import MalformedFrame
from prefill_wire.framing import FrameType, encode_frame
from prefill_wire.status import StatusCode

S = StatusCode


async def test_a_break_at_every_index_resumes_with_the_same_bytes(cloud, customer):
    """Twice: with the state whole, and while the backend is still at it."""
    hand = customer()
    whole = await hand.through()
    for index in range(len(whole) + 1):
        async with hand.wire() as wire:
            assert isinstance(await wire.ready(), Ready)
            before = await wire.pull(most=index) if index else {}
        async with hand.wire() as wire:
            await wire.ready()
            rest = await wire.pull(first=index)
        joined = {**before, **rest}
        assert [joined[i].ciphertext for i in range(len(whole))] == [c.ciphertext for c in whole]
    assert len(cloud.backend.submits) == 1
    await hand.claim(whole)


async def test_a_break_while_it_is_computed_resumes_too(cloud, customer):
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    await hand.prompt()
    held = {}
    for step in range(1, 6):
        cloud.backend.allow()
        async with hand.wire() as wire:
            await wire.ready()
            held |= await wire.pull(first=step - 1, count=1, most=1)
    async with hand.wire() as wire:
        await wire.ready()
        held |= await wire.pull(first=5)
    assert len(cloud.backend.submits) == 1
    await hand.claim([held[index] for index in range(len(held))])


async def test_a_client_that_repeats_gets_the_same_bytes(customer):
    hand = customer()
    whole = await hand.through()
    async with hand.wire() as wire:
        await wire.ready()
        for _ in range(3):
            again = await wire.pull()
            assert [again[i].ciphertext for i in range(len(whole))] == [c.ciphertext for c in whole]


@pytest.fixture
async def running(cloud, customer):
    """A hand client whose attempt waits in the backend."""
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    await hand.prompt()
    return hand


async def first_event(hand, **options):
    async with hand.wire(**options) as wire:
        return await wire.ready()


async def test_a_stolen_capability_without_the_secret_is_refused(cloud, running):
    event = await first_event(running, connection_key=b"x" * 32)
    assert (event.code, type(event)) == (S.CAPABILITY_INVALID, Refused)
    assert isinstance(await first_event(running), Ready)


async def test_any_bit_of_a_capability_counts(running):
    good = running.accept.capability
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        assert (await first_event(running, capability=bytes(bad))).code == S.CAPABILITY_INVALID
    assert (await first_event(running, capability=good + b"x")).code == S.CAPABILITY_INVALID


async def test_an_expired_capability_is_refused(cloud, running):
    cloud.clock.advance(10_000)
    assert (await first_event(running)).code == S.CAPABILITY_EXPIRED


async def test_a_capability_of_another_worker_or_key_is_refused(cloud, running):
    fields = (running.accept.request_id, 1)
    made = issue_capability(b"k" * 32, Capability(*fields, "w1", 2**50, 4))
    assert (await first_event(running, capability=made)).code == S.CAPABILITY_INVALID


async def test_before_the_prompt_and_after_the_end_nothing_is_served(cloud, customer, running):
    early = customer(key="early")
    await early.open()
    early.keys = running.keys
    assert (await first_event(early)).code == S.CAPABILITY_INVALID
    await running.cancel()
    await cloud.parts.opener.settle()
    assert (await first_event(running)).code == S.ATTEMPT_NOT_FOUND


async def test_one_connection_too_many_is_refused_until_another_leaves(running):
    async with running.wire() as one, running.wire() as two, running.wire() as three:
        for wire in (one, two, three):
            assert isinstance(await wire.ready(), Ready)
        async with running.wire() as four:
            assert isinstance(await four.ready(), Ready)
            assert (await first_event(running)).code == S.TOO_MANY_CONNECTIONS
            four.channel.goodbye()
            four.writer.write(four.channel.data_to_send())
            assert await four.events() == []
        assert isinstance(await first_event(running), Ready)


async def test_a_worker_that_is_full_says_so(tmp_path, tidy):
    cloud = Cloud(tmp_path)
    cloud.worker_settings = replace(cloud.worker_settings, max_connections=1)
    async with cloud:
        hand = HandClient(cloud)
        await hand.open()
        await hand.prompt()
        async with hand.wire() as first:
            assert isinstance(await first.ready(), Ready)
            event = await first_event(hand)
            assert (type(event), event.code) == (Refused, S.CAPACITY_EXHAUSTED)


def pull_frame(first, count):
    return encode_frame(FrameType.PULL, first.to_bytes(4, "little") + count.to_bytes(4, "little"))


NONSENSE = {
    "garbage": b"\xff" * 64,
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "a server's frame": encode_frame(FrameType.READY),
    "oversize": (1 << 31).to_bytes(4, "little") + bytes([FrameType.PULL]),
    "pull of nothing": pull_frame(0, 0),
    "pull of too many": pull_frame(0, (1 << 16) + 1),
    "pull beyond every state": pull_frame((1 << 20) + 1, 1),
    "short pull": encode_frame(FrameType.PULL, b"xyz"),
    "a second authentication": encode_frame(FrameType.AUTHENTICATE, b"x" * 64),
    "flood": pull_frame(500, 1) * 1100,
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_ends_its_connection_and_no_other(cloud, running, name):
    async with running.wire() as good, running.wire() as bad:
        assert isinstance(await good.ready(), Ready)
        assert isinstance(await bad.ready(), Ready)
        bad.writer.write(NONSENSE[name])
        assert await bad.reader.read() == b""
        cloud.backend.release()
        assert len(await good.pull()) > 5  # the twin: what makes sense is served


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_before_the_authentication_is_refused(running, name):
    async with running.wire() as wire:
        await wire.reader.readexactly(39)  # the greeting
        wire.writer.write(NONSENSE[name])
        answer = await wire.reader.read()
    assert answer[4] == FrameType.REFUSE


async def test_a_handshake_that_trickles_is_ended(cloud, running, monkeypatch):
    monkeypatch.setattr("prefill_data.transport.connection.HANDSHAKE_SECONDS", 0.05)
    async with running.wire() as wire:
        await wire.reader.readexactly(39)
        wire.writer.write(encode_frame(FrameType.AUTHENTICATE, b"x" * 64)[:10])
        assert await wire.reader.read() == b""
    assert isinstance(await first_event(running), Ready)


async def test_the_death_of_an_attempt_is_told_on_every_connection(cloud, running):
    async with running.wire() as idle, running.wire() as waiting:
        await idle.ready()
        await waiting.ready()
        waiting.channel.pull(0, 10)
        waiting.writer.write(waiting.channel.data_to_send())
        await running.cancel()
        for wire in (idle, waiting):
            failed = [e for e in await wire.events() if isinstance(e, Failed)]
            assert [e.code for e in failed] in ([S.CANCELLED], [S.ATTEMPT_NOT_FOUND])
            assert await wire.events() == []


async def test_connections_are_counted_and_given_back(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    sent = sum(len(chunk.ciphertext) for chunk in chunks)
    assert counted(cloud.worker_metrics.sent_bytes) == sent
    await hand.claim(chunks)
    await cloud.parts.opener.settle()
    await cloud.stop_worker()
    assert counted(cloud.worker_metrics.connections) == 0


async def test_after_a_goodbye_nothing_is_looked_at(cloud, running):
    goodbyes = encode_frame(FrameType.GOODBYE) * 1000
    for words, refused in ((goodbyes + b"\xff" * 64, 0), (b"\xff" * 64, 1)):  # the twin
        async with running.wire() as wire:
            assert isinstance(await wire.ready(), Ready)
            wire.writer.write(words)
            assert await wire.events() == []
        assert counted(cloud.worker_metrics.refusals, code=MalformedFrame("").code) == refused


async def test_who_leaves_with_the_first_word_keeps_no_place(tmp_path, tidy):
    cloud = Cloud(tmp_path)
    cloud.worker_settings = replace(cloud.worker_settings, max_connections=1)
    async with cloud:
        hand = HandClient(cloud)
        await hand.open()
        await hand.prompt()
        async with hand.wire() as hasty:
            hasty.channel.receive(await hasty.reader.read(39))
            hasty.channel.goodbye()
            hasty.writer.write(hasty.channel.data_to_send())
            assert (await hasty.reader.read())[4] == FrameType.REFUSE
        assert isinstance(await first_event(hand), Ready)


async def test_a_worker_that_stops_leaves_no_connection_behind(cloud, running):
    async with running.wire() as proven, running.wire() as silent:
        assert isinstance(await proven.ready(), Ready)
        await silent.reader.readexactly(39)  # the greeting
        assert counted(cloud.worker_metrics.connections) == 2
        await cloud.stop_worker()
        assert counted(cloud.worker_metrics.connections) == 0
        assert await silent.reader.read() == b""
        await proven.reader.read()  # to its end: the attempt's, or the server's
