"""The whole way, with the SDK and by hand: the right bytes, one receipt, nothing left behind."""

import asyncio

import numpy as np
import pytest
from hand_client import TOKENS, HandClient
from in_process_cloud import spill_files
from prefill_data.metering.record import BilledAttempt
from prefill_wire.errors import WireError
from prefill_wire.sealing import open_chunk
from stand_in_backend import IDENTITY, SCHEMA, state_of


async def test_the_sdk_gets_the_state_and_one_receipt(cloud):
    async with cloud.client() as client:
        state = await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=20)
    for key, tensor in state_of(TOKENS).items():
        np.testing.assert_array_equal(state.tensors[key], tensor)
    (record,) = cloud.receipts
    billed = BilledAttempt.decode(record)
    assert (billed.tenant, billed.amount_micros) == ("acme", state.amount_micros)
    assert state.amount_micros == len(TOKENS)
    assert len(cloud.backend.submits) == 1


async def test_several_tenants_at_once_get_their_own_states(cloud):
    prompts = {t: np.arange(n, n + 30, dtype=np.uint32) for n, t in enumerate(("acme", "bolt"))}

    async def prefill(tenant, tokens):
        async with cloud.client(tenant) as client:
            return await client.prefill(tokens, IDENTITY, SCHEMA, deadline_seconds=20)

    states = await asyncio.gather(*(prefill(t, p) for t, p in prompts.items()))
    for state, tokens in zip(states, prompts.values(), strict=True):
        for key, tensor in state_of(tokens).items():
            np.testing.assert_array_equal(state.tensors[key], tensor)


async def test_nothing_is_left_after_a_claim(cloud, customer):
    hand = customer()
    await hand.claim(await hand.through())
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0
    assert spill_files(cloud) == []


async def test_without_a_claim_the_closing_set_stays_shut(cloud, customer):
    """A modified client that holds every chunk and every key it was given has no usable state."""
    hand = customer()
    chunks = await hand.through()
    receiver = hand.receiver()
    for chunk in chunks:
        receiver.accept(chunk.header, chunk.ciphertext)
    guesses = [hand.keys.stream, hand.keys.manifest, hand.keys.connection, bytes(32)]
    closing = [chunk for chunk in chunks if chunk.header.key_class == 2]
    assert len(closing) == 3  # recurrent, conv, the last attention chunk
    assert not any(opens(hand, key, chunk) for key in guesses for chunk in closing)
    assert cloud.receipts == []
    # The twin: with the claim's manifest every one of them opens.
    claim = await hand.claim(chunks)
    state = receiver.close(claim.sealed_manifest, claim.receipt, cloud.clock())
    assert all(opens(hand, state.manifest.close_key, chunk) for chunk in closing)


def opens(hand: HandClient, key, chunk):
    try:
        open_chunk(key, hand.context, chunk.header, chunk.ciphertext)
    except WireError:
        return False
    return True


@pytest.mark.parametrize("count", [2, 3, 5, 64, 65])
async def test_any_length_comes_whole(cloud, count):
    tokens = np.arange(count, dtype=np.uint32)
    async with cloud.client() as client:
        state = await client.prefill(tokens, IDENTITY, SCHEMA, deadline_seconds=20)
    for key, tensor in state_of(tokens).items():
        np.testing.assert_array_equal(state.tensors[key], tensor)
