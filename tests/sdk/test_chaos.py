"""Breaks, cuts, stalls and refusals at once, drawn by a seed; the state is still exact."""

import random

import pytest
from loopback_cloud import IDENTITY, SCHEMA, random_state
from prefill_wire.status import StatusCode

FEW, MANY = range(12), range(12, 400)


def spoil(faults, chance, chunks):
    """Faults that a resuming client has to get over."""
    for index in range(chunks):
        faults.break_after[index] = chance.choice([0, 0, 0, 1, 2])
        faults.cut_inside[index] = chance.choice([0, 0, 0, 0, 1])
    faults.refuse_connections = [StatusCode.TOO_MANY_CONNECTIONS] * chance.randrange(3)
    faults.unavailable["Open"] = chance.randrange(3)
    faults.unavailable["Claim"] = chance.randrange(4)
    if chance.random() < 0.2:
        faults.stall_before = chance.randrange(chunks)


async def survive(cloud, connect, seed):
    chance = random.Random(seed)
    tokens = [chance.randrange(1000) for _ in range(chance.randrange(2, 60))]
    cloud.rows_a_chunk = chance.randrange(1, 9)
    spoil(cloud.faults, chance, len(tokens))
    async with connect(cloud, connections=chance.randrange(1, 5)) as client:
        state = await client.prefill(tokens, IDENTITY, SCHEMA, deadline_seconds=30.0)
    for key, array in random_state(tokens).items():
        assert state.tensors[key].tobytes() == array.tobytes()
    assert cloud.calls["Prompt"] == 1
    await cloud.all_closed()


@pytest.mark.parametrize("seed", FEW)
async def test_a_bad_network_costs_time_and_nothing_else(cloud, connect, seed):
    await survive(cloud, connect, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", MANY)
async def test_many_bad_networks(cloud, connect, seed):
    await survive(cloud, connect, seed)
