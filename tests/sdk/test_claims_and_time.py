"""Claims while the gateway is away, deadlines at every stage, and cancellation without remains."""

import asyncio
from dataclasses import replace
from pathlib import Path

import prefill_cloud
import pytest
from loopback_cloud import IDENTITY, SCHEMA
from prefill_cloud.clock import Clock
from prefill_cloud.errors import (
    DeadlineExceededError,
    IntegrityFailureError,
    PrefillCloudError,
    UnavailableError,
)
from prefill_cloud.intake import Intake
from prefill_wire.status import StatusCode

TOKENS = list(range(100, 112))
PACKAGE = str(Path(prefill_cloud.__file__).parent)


async def prefill(client, **options):
    return await client.prefill(TOKENS, IDENTITY, SCHEMA, **{"deadline_seconds": 10.0, **options})


def own_tasks():
    """Tasks that run code of the SDK."""
    running = [task.get_coro() for task in asyncio.all_tasks()]
    return [coro for coro in running if coro.cr_code.co_filename.startswith(PACKAGE)]


class SlidingClock:
    """A clock that only its own sleeps advance."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self):
        return Clock(monotonic=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize("call", ["Open", "Claim"])
async def test_a_call_to_a_gateway_that_restarts_is_repeated(cloud, connect, call):
    cloud.faults.unavailable[call] = 2
    async with connect(cloud) as client:
        state = await prefill(client)
    assert state.amount_micros == 7
    assert cloud.calls[call] == 3
    assert len(cloud.attempts) == 1


async def test_open_gives_up_after_its_tries(cloud, connect):
    cloud.faults.unavailable["Open"] = 99
    async with connect(cloud) as client:
        with pytest.raises(UnavailableError) as caught:
            await prefill(client)
    assert caught.value.code is StatusCode.NETWORK_UNAVAILABLE
    assert cloud.calls["Open"] == 3


async def test_a_claim_is_repeated_until_the_lease_ends(cloud, connect):
    cloud.faults.unavailable["Claim"] = 10**6
    cloud.faults.accept = {"lease_seconds": 3}
    time = SlidingClock()
    async with connect(cloud, clock=time.clock()) as client:
        with pytest.raises(UnavailableError):
            await prefill(client, deadline_seconds=60.0)
    assert sum(time.slept) == pytest.approx(3.0)
    assert cloud.calls["Claim"] > 10


async def test_a_claim_that_the_gateway_refuses_is_not_repeated(cloud, connect):
    cloud.faults.refuse["Claim"] = StatusCode.WORKER_LOST
    async with connect(cloud) as client:
        with pytest.raises(UnavailableError) as caught:
            await prefill(client)
    assert caught.value.code is StatusCode.WORKER_LOST
    assert cloud.calls["Claim"] == 1


async def test_a_charge_above_the_bound_is_refused(cloud, connect):
    cloud.faults.amount_micros = 11
    async with connect(cloud) as client:
        with pytest.raises(IntegrityFailureError, match="11 micros were charged, 10 is the bound"):
            await prefill(client)


@pytest.mark.parametrize("call", ["Open", "Prompt", "Claim"])
async def test_a_gateway_that_never_answers_is_left_at_the_deadline(cloud, connect, call):
    cloud.faults.unanswered = {call}
    async with connect(cloud) as client:
        with pytest.raises(DeadlineExceededError) as caught:
            await prefill(client, deadline_seconds=0.3)
    opened = call != "Open"
    assert caught.value.request_id == (cloud.only.accept.request_id if opened else "")
    assert len(cloud.cancels) == opened
    assert own_tasks() == []


async def test_a_worker_that_only_tells_progress_is_left_at_the_deadline(cloud, connect):
    cloud.faults.hold_chunks = asyncio.Event()
    async with connect(cloud) as client:
        with pytest.raises(DeadlineExceededError) as caught:
            await prefill(client, deadline_seconds=0.3)
    await cloud.all_closed()
    assert cloud.cancels == [(caught.value.request_id, 1, "DEADLINE_EXCEEDED")]


async def test_a_cancelled_prefill_leaves_nothing_behind(cloud, connect):
    cloud.faults.hold_chunks = asyncio.Event()
    started = asyncio.Event()
    async with connect(cloud) as client:
        task = asyncio.create_task(prefill(client, on_progress=lambda _: started.set()))
        await started.wait()
        assert len(own_tasks()) >= 2  # the twin: the detector sees what is running
        assert cloud.open_connections >= 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert own_tasks() == []
        await cloud.all_closed()
    assert cloud.cancels == [(cloud.only.accept.request_id, 1, "CANCELLED")]
    assert cloud.calls["Claim"] == 0


async def test_a_cancel_that_cannot_be_delivered_does_not_hide_the_error(cloud, connect):
    cloud.faults.refuse["Cancel"] = StatusCode.INTERNAL
    cloud.faults.fail_at = (0, StatusCode.WORKER_LOST)
    async with connect(cloud) as client:
        with pytest.raises(PrefillCloudError) as caught:
            await prefill(client)
    assert caught.value.code is StatusCode.WORKER_LOST


async def test_the_same_idempotency_key_gives_the_same_attempt(cloud, connect):
    async with connect(cloud) as client:
        first = await prefill(client, idempotency_key="order 66")
        again = await prefill(client, idempotency_key="order 66")
        other = await prefill(client)
    assert first.request_id == again.request_id != other.request_id
    assert len(cloud.attempts) == 2


async def test_progress_tells_tokens_chunks_and_bytes(cloud, connect):
    seen = []
    async with connect(cloud) as client:
        state = await prefill(client, on_progress=seen.append)
    assert [each.chunks for each in seen] == list(range(1, 10))
    assert seen[-1].received_bytes == state.bytes_sent


async def test_chunks_that_came_together_are_opened_by_one_job(cloud, connect, monkeypatch):
    jobs, accept = [], Intake.accept

    async def watched(self, chunks):
        jobs.append([chunk.header.index for chunk in chunks])
        await accept(self, chunks)

    monkeypatch.setattr(Intake, "accept", watched)
    async with connect(cloud, connections=1) as client:
        await prefill(client)
    assert [index for job in jobs for index in job] == list(range(9))
    assert len(jobs) < 9


async def test_a_callback_that_raises_ends_the_prefill_with_its_error(cloud, connect):
    def broken(_):
        raise ZeroDivisionError

    async with connect(cloud) as client:
        with pytest.raises(ZeroDivisionError):
            await prefill(client, on_progress=broken)
    assert cloud.cancels == [(cloud.only.accept.request_id, 1, "INTERNAL")]
    assert own_tasks() == []


async def test_closing_the_client_ends_what_is_under_way(cloud, connect):
    cloud.faults.unanswered = {"Prompt"}
    client = connect(cloud)
    task = asyncio.create_task(prefill(client))
    await cloud.entered["Prompt"].wait()
    await client.close()
    with pytest.raises((asyncio.CancelledError, PrefillCloudError)):
        await task
    assert own_tasks() == []
    with pytest.raises(PrefillCloudError, match="the client is closed"):
        await prefill(client)


async def test_a_gateway_in_a_black_hole_is_left_soon(cloud, connect, quick):
    cloud.faults.unanswered = {"Open"}
    tuning = replace(quick, call_seconds=0.2)
    async with connect(cloud, tuning=tuning) as client:
        with pytest.raises(UnavailableError) as caught:
            await prefill(client, deadline_seconds=60.0)
    assert caught.value.code is StatusCode.NETWORK_UNAVAILABLE
    assert cloud.calls["Open"] == 1  # its time was all there was
