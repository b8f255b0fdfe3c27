"""The word that an attempt is over: it rides with the next Admit, and none is lost on the way."""

import asyncio

import pytest
from hand_client import HandClient
from prefill_data.errors import DataPlaneError
from prefill_data.gateway import releases as words
from prefill_data.gateway.releases import Releases
from prefill_wire.status import StatusCode

S = StatusCode


class Worker:
    """Hears what it is told."""

    def __init__(self):
        self.heard = []
        self.told = asyncio.Event()

    async def release(self, over):
        self.heard.append(names(over))
        self.told.set()


def names(over):
    return [(each.request_id, each.attempt) for each in over]


async def test_words_that_no_admit_takes_along_go_together_by_themselves(monkeypatch):
    monkeypatch.setattr(words, "GATHER_SECONDS", 0)
    releases, worker, other = Releases(), Worker(), Worker()
    releases.tell(worker, "req_a", 1)
    releases.tell(worker, "req_b", 2)
    releases.tell(other, "req_c", 1)
    async with asyncio.timeout(5):
        await worker.told.wait()
        await other.told.wait()
    assert worker.heard == [[("req_a", 1), ("req_b", 2)]]
    assert other.heard == [[("req_c", 1)]]


async def test_what_rides_with_an_admit_is_told_once():
    releases, worker = Releases(), Worker()
    releases.tell(worker, "req_a", 1)
    with releases.riding(worker) as over:
        assert names(over) == [("req_a", 1)]
    with releases.riding(worker) as over:
        assert names(over) == []
    await releases.settle()
    assert worker.heard == []


@pytest.mark.parametrize(
    "error",
    [
        DataPlaneError(S.WORKER_LOST, "no answer"),
        DataPlaneError(S.CAPACITY_EXHAUSTED, "refused by the guard, before anything was freed"),
        asyncio.CancelledError(),
        RuntimeError("broken"),
    ],
)
async def test_what_an_admit_took_along_in_vain_is_told_again(error):
    releases, worker = Releases(), Worker()
    releases.tell(worker, "req_a", 1)
    with pytest.raises(type(error)), releases.riding(worker):
        raise error
    await releases.settle()
    assert worker.heard == [[("req_a", 1)]]


async def test_a_worker_frees_before_it_reserves(cloud, monkeypatch):
    """Whoever cancels and opens again needs no second place, though no Release was sent."""
    monkeypatch.setattr(words, "GATHER_SECONDS", 600)
    first, second = HandClient(cloud, key="first"), HandClient(cloud, key="second")
    await first.open()
    reserved = cloud.attempts.reserved_bytes
    await first.cancel()
    assert cloud.attempts.reserved_bytes == reserved  # nothing has been said yet
    await second.open()
    assert cloud.attempts.reserved_bytes == reserved
    assert len(cloud.attempts) == 1
