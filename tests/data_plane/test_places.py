"""Places of a data server: silence takes none from a peer that proves itself."""

from contextlib import AsyncExitStack
from functools import partial

import pytest
from hand_client import HandClient
from in_process_cloud import Cloud
from prefill_data.errors import DataPlaneError
from prefill_data.transport.places import Places
from prefill_wire.channel import Ready
from prefill_wire.status import StatusCode


def test_in_a_full_waiting_room_the_oldest_gives_way():
    places, ended = Places(proven=1, unproven=2), []
    guests = {name: partial(ended.append, name) for name in "abcd"}
    for guest in guests.values():
        places.wait(guest)
    assert ended == ["a", "b"]
    places.leave(guests["a"])  # who was pushed out leaves too, and takes nobody's place along
    places.leave(guests["c"])
    places.wait(guests["a"])
    assert ended == ["a", "b"]  # the twin: who fits is left alone, and pushes nobody out
    places.wait(guests["b"])
    assert ended == ["a", "b", "d"]


def test_a_handshake_that_ends_gives_its_place_back():
    places, ended = Places(proven=1, unproven=1), []
    for name in "abc":
        guest = partial(ended.append, name)
        places.wait(guest)
        places.leave(guest)
    assert ended == []


def test_proven_places_are_counted_and_given_back():
    places = Places(proven=1)
    places.take()
    with pytest.raises(DataPlaneError) as refused:
        places.take()
    assert refused.value.code == StatusCode.CAPACITY_EXHAUSTED
    places.give_back()
    places.take()


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
