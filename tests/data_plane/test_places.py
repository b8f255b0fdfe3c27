"""Places of a data server: silence takes none from a peer that proves itself."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hand_client import HandClient
from in_process_cloud import Cloud
from prefill_data.errors import DataPlaneError
from prefill_data.transport.places import Places
from prefill_wire.channel import Ready
from prefill_wire.status import StatusCode

LONG_SECONDS = 3600.0


async def handshake(places, ended, name, done):
    try:
        async with places.unproven(LONG_SECONDS):
            await done.wait()
        ended.append((name, "proven"))
    except TimeoutError:
        ended.append((name, "pushed out"))


async def test_in_a_full_waiting_room_the_oldest_gives_way():
    places, ended, done = Places(proven=1, unproven=2), [], asyncio.Event()
    tasks = []
    for name in "abcd":
        tasks.append(asyncio.create_task(handshake(places, ended, name, done)))
        await asyncio.sleep(0)
    await asyncio.wait(tasks[:2])
    assert ended == [("a", "pushed out"), ("b", "pushed out")]
    done.set()
    await asyncio.gather(*tasks)
    assert ended[2:] == [("c", "proven"), ("d", "proven")]  # the twin: who fits is left alone


async def test_a_handshake_that_ends_gives_its_place_back():
    places, ended = Places(proven=1, unproven=1), []
    done = asyncio.Event()
    done.set()
    for name in "abc":
        await handshake(places, ended, name, done)
    assert [how for _, how in ended] == ["proven"] * 3


def test_proven_places_are_counted_and_given_back():
    places = Places(proven=1)
    with places.proven(), pytest.raises(DataPlaneError) as refused, places.proven():
        pass
    assert refused.value.code == StatusCode.CAPACITY_EXHAUSTED
    with places.proven():
        pass


async def test_silent_sockets_keep_no_customer_out(tmp_path, tidy, monkeypatch):
    """More sockets that say nothing than there are places of either kind."""
    monkeypatch.setattr(Places.__init__, "__defaults__", (4,))
    async with Cloud(tmp_path) as cloud, AsyncExitStack() as sockets:
        hand = HandClient(cloud)
        await hand.open()
        await hand.prompt()
        silent = [await sockets.enter_async_context(hand.wire()) for _ in range(80)]
        for wire in silent:
            await wire.reader.readexactly(39)  # the greeting
        async with hand.wire() as wire:
            assert isinstance(await wire.ready(), Ready)
            assert len(await wire.pull()) > 5
        assert await silent[0].reader.read() == b""  # and the first of them is gone
