"""The primitive: a whole verified state arrives, whatever the connection does; or nothing."""

import pytest
from loopback_cloud import IDENTITY, SCHEMA, random_state

TOKENS = list(range(100, 112))


async def prefill(client, tokens=TOKENS, **options):
    options = {"deadline_seconds": 10.0, **options}
    return await client.prefill(tokens, IDENTITY, SCHEMA, **options)


def assert_state(state, tokens=TOKENS):
    wanted = random_state(tokens)
    assert state.tensors.keys() == wanted.keys()
    for key, array in wanted.items():
        assert state.tensors[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("connections", [1, 2, 3, 4])
async def test_the_state_arrives_exactly(cloud, connect, connections):
    async with connect(cloud, connections=connections) as client:
        state = await prefill(client)
    assert_state(state)
    assert state.bytes_raw == sum(array.nbytes for array in state.tensors.values())
    assert state.bytes_sent > 0
    assert (state.amount_micros, state.state_tokens) == (7, len(TOKENS) - 1)
    assert state.request_id == cloud.only.accept.request_id
    assert 1 <= cloud.connections <= connections
    assert cloud.cancels == []
