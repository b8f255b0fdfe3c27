"""Customers that leave at any moment: nothing runs on, nothing stays open, nobody else waits."""

import asyncio
import os

import numpy as np
import psutil
import pytest
from hand_client import TOKENS, HandClient
from in_process_cloud import spill_files
from prefill_cloud import PrefillCloudError
from stand_in_backend import IDENTITY, SCHEMA, state_of


async def prefill(cloud, key=None, tokens=TOKENS):
    async with cloud.client() as client:
        return await client.prefill(
            tokens, IDENTITY, SCHEMA, deadline_seconds=20, idempotency_key=key
        )


async def settled(cloud):
    """Waits until both processes have worked off what the last customers left."""
    await cloud.backend.until(lambda b: b.running == 0)
    async with asyncio.timeout(10):
        while cloud.attempts.reserved_bytes or open_connections(cloud):
            await cloud.parts.opener.settle()
            await asyncio.sleep(0.001)


def open_connections(cloud):
    return cloud.worker_metrics.connections._value.get()


async def leave_after(cloud, turns, key):
    """A customer that is cancelled after so many turns of the event loop."""
    task = asyncio.create_task(prefill(cloud, key))
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            break
    task.cancel()
    try:
        await task
    except (asyncio.CancelledError, PrefillCloudError):
        return False
    return True


async def test_a_customer_that_leaves_at_any_step_leaves_nothing(cloud):
    """The turns cover the exchange: the first ones are before Open, the last ones come whole."""
    turns = whole = 0
    while whole < 3 and turns < 4000:
        whole += await leave_after(cloud, turns, f"k{turns}")
        turns += 1 + turns // 12
    assert whole == 3  # the twin: who stays gets a state
    cloud.clock.advance(21)  # whose Accept was lost on the way ends by its deadline
    cloud.sweep()
    await settled(cloud)
    assert len(cloud.attempts) == 0
    assert spill_files(cloud) == []
    assert len(cloud.receipts) >= 3
    state = await prefill(cloud)
    for key, tensor in state_of(TOKENS).items():
        np.testing.assert_array_equal(state.tensors[key], tensor)


def things():
    """Open descriptors, threads, and tasks of this process."""
    process = psutil.Process(os.getpid())
    return process.num_fds(), process.num_threads(), len(asyncio.all_tasks())


async def abort(cloud, number):
    """One exchange that its customer gives up half-way, each time at another place."""
    hand = HandClient(cloud, key=f"a{number}", tokens=np.arange(20 + number % 7, dtype=np.uint32))
    await hand.open()
    if number % 5 == 0:
        return await hand.cancel()
    if number % 5 == 1:
        call = cloud.stub.Prompt(stuck(hand), metadata=hand.metadata)
        await asyncio.sleep(0)
        call.cancel()
        return await hand.cancel()
    await hand.prompt()
    async with hand.wire() as wire:
        if number % 5 == 2:
            wire.writer.write(b"\xff" * 50)
        elif number % 5 == 3:
            await wire.ready()
            await wire.pull(count=3, most=1)
    return await hand.cancel()


async def stuck(hand):
    yield next(iter(hand.parts()))


async def aborted(cloud, count):
    await asyncio.gather(*(abort(cloud, number) for number in range(10)))  # pools fill up
    await settled(cloud)
    before = things()
    for start in range(10, count, 10):
        await asyncio.gather(*(abort(cloud, number) for number in range(start, start + 10)))
    await settled(cloud)
    cloud.clock.advance(10_000)
    cloud.sweep()
    return before, things()


async def test_hundred_aborted_exchanges_leave_no_socket_thread_or_task(cloud):
    before, after = await aborted(cloud, 100)
    assert all(now <= then + 2 for then, now in zip(before, after, strict=True)), (before, after)
    assert len(cloud.parts.book) == len(cloud.attempts) == 0
    await prefill(cloud)


@pytest.mark.nightly
async def test_thousand_aborted_exchanges_leave_no_socket_thread_or_task(cloud):
    before, after = await aborted(cloud, 1000)
    assert all(now <= then + 2 for then, now in zip(before, after, strict=True)), (before, after)


async def test_the_detector_fires(cloud):
    before = things()
    kept = [await asyncio.open_connection(*cloud.data_endpoint.split(":")) for _ in range(5)]
    assert things()[0] >= before[0] + 5
    for _, writer in kept:
        writer.transport.abort()
    await settled(cloud)
