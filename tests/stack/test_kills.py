"""Kills between last chunk, claim, durable receipt, release and read.

Never usable and unbilled, never billed and unobtainable while the lease lives, never two receipts.
"""

import asyncio
import os
import signal
import subprocess
import sys

import grpc
import numpy as np
import pytest
from prefill_cloud import PrefillCloudError
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.receipt import verify_receipt

BEFORE, AFTER, RELEASE = (
    f"gateway.claim.{place}" for place in ("before_durable", "after_durable", "before_release")
)
CUSTOMER = """
import asyncio, sys
import numpy as np
from prefill_cloud import AsyncClient
from prefill_engine.identity import identify
from prefill_engine.schema import state_schema
from prefill_stack import shipped
from prefill_wire.identity import ModelIdentity

async def main(endpoint, control, tokens):
    found = identify(shipped.checkpoint("mqar"))
    identity = ModelIdentity("mqar", found.fingerprint, found.tokenizer_fingerprint, "fp32")
    key = sys.stdin.readline().strip()
    async with AsyncClient(endpoint, key, control_public_key=bytes.fromhex(control)) as client:
        schema = state_schema(found.config, "fp32")
        await client.prefill(np.load(tokens), identity, schema, deadline_seconds=60)

asyncio.run(main(*sys.argv[1:]))
"""


def same(state, other):
    return all(np.array_equal(state.tensors[key], other.tensors[key]) for key in other.tensors)


async def test_a_whole_exchange_leaves_one_receipt(scene):
    here = scene()
    state = await here.prefill()
    (receipt,) = here.receipts()
    assert receipt.request_id == state.request_id
    assert state.receipt.token_count == 130


@pytest.mark.parametrize("place", [AFTER, RELEASE])
async def test_a_gateway_killed_once_the_receipt_is_durable_still_delivers(scene, place):
    here = scene(f"{place}=kill")
    asking = asyncio.create_task(here.prefill())
    await asyncio.to_thread(here.wait_dead)
    assert len(here.receipts()) == 1
    await asyncio.to_thread(here.restart)
    state = await asking
    (receipt,) = here.receipts()
    assert receipt.request_id == state.request_id
    assert same(state, await scene().prefill())


async def test_a_gateway_killed_before_that_bills_nothing_and_gives_nothing(scene):
    here = scene(f"{BEFORE}=kill")
    asking = asyncio.create_task(here.prefill())
    await asyncio.to_thread(here.wait_dead)
    await asyncio.to_thread(here.restart)
    with pytest.raises(PrefillCloudError) as refused:
        await asking
    assert refused.value.falls_back
    assert here.receipts() == []


async def test_the_detector_of_a_second_receipt_fires(scene):
    here = scene()
    await here.prefill()
    await here.prefill()
    assert len(here.receipts()) == 2


def start_customer(here, path):
    """An SDK in a process of its own, with a prompt of 70 tokens; the key goes by stdin."""
    np.save(path, np.arange(70, dtype=np.uint32))
    public = here.cloud.control_public_key.hex()
    command = [sys.executable, "-c", CUSTOMER, here.cloud.endpoint, public, str(path)]
    customer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    customer.stdin.write(here.cloud.key_of("amber") + "\n")
    customer.stdin.close()
    return customer


@pytest.mark.parametrize(("place", "least"), [(BEFORE, 0), (AFTER, 1), (RELEASE, 1)])
async def test_a_killed_customer_is_billed_once_at_most_and_may_claim_again(
    scene, tmp_path, place, least
):
    here = scene(f"{place}=pause")
    customer = start_customer(here, tmp_path / "tokens.npy")
    await asyncio.to_thread(here.wait_stopped)
    customer.kill()
    customer.wait()
    here.cloud.gateway.process.send_signal(signal.SIGCONT)
    await here.prefill()  # another request of the same tenant goes on
    others = [r for r in here.receipts() if verify(here, r).token_count == 70]
    assert least <= len(others) <= 1
    for receipt in others:
        answer = await claim(here, receipt)
        assert answer.sealed_manifest == receipt.sealed_manifest
        assert len(here.receipts()) == len(others) + 1


def verify(here, record):
    from prefill_wire.certificate import verify_certificate

    path = here.cloud.workers[0].plan.environment["PREFILL_WORKER_CERTIFICATE_FILE"]
    with open(path, "rb") as file:
        certificate = verify_certificate(
            here.cloud.control_public_key, file.read(), record.expires_at_ms
        )
    return verify_receipt(certificate.public_key, record.receipt)


async def claim(here, record):
    asked = prefill_pb2.ClaimRequest(
        request_id=record.request_id,
        attempt=record.attempt,
        root=record.root,
        chunk_count=record.chunk_count,
    )
    metadata = (("authorization", f"Bearer {here.cloud.key_of('amber')}"),)
    async with grpc.aio.insecure_channel(here.cloud.endpoint) as channel:
        stub = prefill_pb2_grpc.PrefillGatewayStub(channel)
        return await stub.Claim(asked, metadata=metadata, timeout=30)


async def test_a_restart_keeps_the_epoch_rising(scene):
    here = scene()
    first = (await here.prefill()).receipt.fencing_epoch
    os.kill(here.cloud.gateway.process.pid, signal.SIGKILL)
    await asyncio.to_thread(here.wait_dead)
    await asyncio.to_thread(here.restart)
    assert (await here.prefill()).receipt.fencing_epoch > first
