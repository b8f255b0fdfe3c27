"""A worker that dies: before its last word nothing is billed, after it the claim still holds."""

import asyncio
import signal

import numpy as np
import pytest
from prefill_cloud import AsyncClient, PrefillCloudError
from prefill_cloud.errors import UnavailableError

PLACES = ["worker.chunk@1", "worker.chunk@3", "worker.before_finish"]


@pytest.mark.parametrize("place", PLACES)
async def test_before_its_last_word_nothing_is_usable_and_nothing_billed(whole_cloud, place):
    here = whole_cloud(worker_settings={"PREFILL_FAILPOINTS": f"{place}=kill"})
    schema = here.model.schema
    buffers = {
        spec.key: np.full(spec.shape, 7, spec.dtype.numpy_name) for spec in schema.tensors(129)
    }
    with pytest.raises(PrefillCloudError) as refused:
        await here.prefill(buffers=buffers)
    assert refused.value.falls_back
    assert not any(array.any() for array in buffers.values())
    assert here.cloud.workers[0].process.wait(timeout=60) == -signal.SIGKILL
    assert here.receipts() == []


async def test_after_its_last_word_the_claim_is_answered_without_it(whole_cloud):
    settings = {"PREFILL_FAILPOINTS": "gateway.claim.before_durable=pause"}
    here = whole_cloud(gateway_settings=settings)
    asking = asyncio.create_task(here.prefill())
    await asyncio.to_thread(here.wait_stopped)
    here.cloud.workers[0].process.kill()
    here.cloud.workers[0].process.wait()
    here.cloud.gateway.process.send_signal(signal.SIGCONT)
    state = await asking
    (receipt,) = here.receipts()
    assert receipt.request_id == state.request_id


async def test_another_worker_takes_the_next_request(whole_cloud):
    here = whole_cloud(workers=2)
    served = (await here.prefill()).receipt.worker_id
    dead = next(w for w in here.cloud.workers if w.plan.name == served)
    dead.process.kill()
    dead.process.wait()
    assert (await here.prefill()).receipt.worker_id != served
    assert len(here.receipts()) == 2


async def test_the_whole_exchange_goes_over_tls(whole_cloud):
    here = whole_cloud(tls=True)
    state = await here.prefill()
    assert state.receipt.token_count == 130
    endpoint, key = here.cloud.endpoint, here.cloud.key_of("amber")
    public = here.cloud.control_public_key
    async with AsyncClient(endpoint, key, control_public_key=public) as in_plain_text:
        with pytest.raises(UnavailableError):
            await in_plain_text.models(deadline_seconds=2.0)
