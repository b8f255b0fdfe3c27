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
from prefill_stack.load.exchange import pull
from prefill_wire.digests import chunk_digest, exchange_root, prompt_digest, token_bytes
from prefill_wire.limits import SUPPORTED_WIRE_VERSIONS
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.receipt import verify_receipt
from prefill_wire.sealing import AttemptContext, AttemptKeys, Envelope, OneTimeKey

BEFORE, AFTER, RELEASE = (
    f"gateway.claim.{place}" for place in ("before_durable", "after_durable", "before_release")
)
TOKENS = np.arange(70, dtype=np.uint32)
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
    np.save(path, TOKENS)
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


class Caller:
    """A customer by hand, who keeps its idempotency key and what it has, and asks again."""

    def __init__(self, here):
        self.here, self.one_time = here, OneTimeKey.generate()
        self.prompt = token_bytes(TOKENS)
        self.metadata = (("authorization", f"Bearer {here.cloud.key_of('amber')}"),)
        self.asked = prefill_pb2.OpenRequest(
            wire_versions=SUPPORTED_WIRE_VERSIONS, codecs=["raw"], idempotency_key="mine",
            model=here.model.identity.message(), token_count=len(TOKENS),
            prompt_digest=prompt_digest(self.prompt), deadline_ms=30_000,
            one_time_public_key=self.one_time.public_bytes,
        )  # fmt: skip

    async def call(self, name, request):
        async with grpc.aio.insecure_channel(self.here.cloud.endpoint) as channel:
            method = getattr(prefill_pb2_grpc.PrefillGatewayStub(channel), name)
            return await method(request, metadata=self.metadata, wait_for_ready=True, timeout=60)

    async def open(self, **changes):
        asked = prefill_pb2.OpenRequest()
        asked.CopyFrom(self.asked)
        for name, value in changes.items():
            setattr(asked, name, value)
        return (await self.call("Open", asked)).accept

    async def through(self, accept):
        """The prompt and every chunk; the Claim that follows."""
        part = prefill_pb2.PromptPart(
            request_id=accept.request_id, attempt=accept.attempt, token_ids=self.prompt
        )
        envelope = (await self.call("Prompt", iter([part]))).envelope
        context = AttemptContext(
            accept.request_id, accept.attempt, accept.tenant, self.asked.prompt_digest
        )
        sealed = Envelope(envelope.encapsulated_key, envelope.ciphertext)
        keys = AttemptKeys.derive(self.one_time.open_envelope(sealed, context), context)
        chunks = await pull(accept.data_endpoint, accept.capability, keys)
        return prefill_pb2.ClaimRequest(
            request_id=accept.request_id, attempt=accept.attempt, chunk_count=len(chunks),
            root=exchange_root(chunk_digest(chunk.ciphertext) for chunk in chunks),
        )  # fmt: skip


@pytest.mark.parametrize("place", [AFTER, RELEASE])
async def test_an_open_that_comes_again_after_a_kill_is_charged_once(scene, place):
    here = scene(f"{place}=kill")
    caller = Caller(here)
    accept = await caller.open()
    claim = await caller.through(accept)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.call("Claim", claim)
    for restarts in range(2):
        await asyncio.to_thread(here.wait_dead)
        await asyncio.to_thread(here.restart)
        assert await caller.open(deadline_ms=20_000) == accept
        with pytest.raises(grpc.aio.AioRpcError, match="another body"):
            await caller.open(max_price_micros=1_000_000)
        released = await caller.call("Claim", claim)
        (receipt,) = here.receipts()
        assert released.sealed_manifest == receipt.sealed_manifest
        assert released.receipt == receipt.receipt
        if not restarts:
            here.cloud.gateway.process.kill()


async def test_what_was_open_and_not_billed_is_another_request_after_a_kill(scene):
    """The twin: nothing was charged, so the same key begins anew, and the zombie gets nothing."""
    here = scene(f"{BEFORE}=kill")
    caller = Caller(here)
    zombie = await caller.open()
    claim = await caller.through(zombie)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.call("Claim", claim)
    await asyncio.to_thread(here.wait_dead)
    await asyncio.to_thread(here.restart)
    fresh = await caller.open()
    assert fresh.request_id != zombie.request_id
    assert fresh.fencing_epoch > zombie.fencing_epoch
    with pytest.raises(grpc.aio.AioRpcError, match="unknown"):
        await caller.call("Claim", claim)
    await caller.call("Claim", await caller.through(fresh))
    assert [each.request_id for each in here.receipts()] == [fresh.request_id]
