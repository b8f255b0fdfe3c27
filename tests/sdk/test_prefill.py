"""The primitive: a whole verified state arrives, whatever the connection does; or nothing."""

import asyncio

import numpy as np
import pytest
from loopback_cloud import IDENTITY, SCHEMA, random_state
from prefill_cloud import PrefillCloudError
from prefill_cloud.errors import IntegrityFailureError, UnavailableError
from prefill_wire.status import StatusCode

TOKENS = list(range(100, 112))
CHUNKS = 9  # recurrent, conv, six of latent rows, the leaf table


async def prefill(client, tokens=TOKENS, **options):
    options = {"deadline_seconds": 10.0, **options}
    return await client.prefill(tokens, IDENTITY, SCHEMA, **options)


def dirty_buffers(tokens=TOKENS):
    return {
        spec.key: np.ones(spec.shape, spec.dtype.numpy_name)
        for spec in SCHEMA.tensors(len(tokens) - 1)
    }


def assert_state(state, tokens=TOKENS):
    wanted = random_state(tokens)
    assert state.tensors.keys() == wanted.keys()
    for key, array in wanted.items():
        assert state.tensors[key].tobytes() == array.tobytes()


def is_zero(buffers):
    return not any(array.any() for array in buffers.values())


@pytest.mark.parametrize("connections", [1, 2, 3, 4])
async def test_the_state_arrives_exactly(cloud, connect, connections):
    async with connect(cloud, connections=connections) as client:
        state = await prefill(client)
    assert_state(state)
    assert state.bytes_raw == sum(array.nbytes for array in state.tensors.values())
    assert state.bytes_sent == sum(len(chunk.ciphertext) for chunk in cloud.only.chunks)
    assert (state.amount_micros, state.state_tokens) == (7, len(TOKENS) - 1)
    assert state.request_id == cloud.only.accept.request_id
    assert 1 <= cloud.connections <= connections
    assert set(cloud.sent) == set(range(CHUNKS))
    assert cloud.cancels == []


async def test_the_state_is_written_into_the_callers_buffers(cloud, connect):
    buffers = dirty_buffers()
    async with connect(cloud) as client:
        state = await prefill(client, buffers=buffers)
    assert_state(state)
    assert all(state.tensors[key] is array for key, array in buffers.items())


async def test_the_prompt_goes_in_parts_and_never_with_open(cloud, connect):
    tokens = np.arange(600_000, dtype=np.uint32) % 5
    cloud.rows_a_chunk = 100_000
    async with connect(cloud) as client:
        await prefill(client, tokens)
    opened = cloud.only.opened
    assert len(opened.block_hashes) == 600_000 // 512
    assert np.array_equal(cloud.only.tokens, tokens)
    assert opened.ByteSize() < 80_000


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("index", range(CHUNKS))
async def test_a_broken_connection_resumes_with_what_is_missing(cloud, connect, index, connections):
    cloud.faults.break_after[index] = 1
    async with connect(cloud, connections=connections) as client:
        assert_state(await prefill(client))
    assert cloud.calls["Prompt"] == 1  # no second prefill
    if connections == 1:
        assert cloud.connections == 2
        assert set(cloud.sent.values()) == {1}  # nothing that was held came again


@pytest.mark.parametrize("index", range(CHUNKS))
async def test_a_chunk_cut_in_its_middle_is_pulled_again_alone(cloud, connect, index):
    cloud.faults.cut_inside[index] = 1
    async with connect(cloud, connections=1) as client:
        assert_state(await prefill(client))
    assert cloud.sent == {i: 2 if i == index else 1 for i in range(CHUNKS)}
    assert cloud.calls["Prompt"] == 1


async def test_every_connection_may_break_after_every_chunk(cloud, connect):
    cloud.faults.break_after.update(dict.fromkeys(range(CHUNKS), 1))
    async with connect(cloud, connections=2) as client:
        assert_state(await prefill(client))


async def test_a_worker_that_stays_away_is_given_up(cloud, connect):
    cloud.faults.nonsense = b""
    cloud._data.close()
    async with connect(cloud) as client:
        with pytest.raises(UnavailableError) as caught:
            await prefill(client)
    assert caught.value.code is StatusCode.NETWORK_UNAVAILABLE
    assert caught.value.request_id == cloud.only.accept.request_id
    assert cloud.cancels == [(caught.value.request_id, 1, "NETWORK_UNAVAILABLE")]


async def test_a_silent_peer_is_dropped_and_the_rest_pulled_anew(cloud, connect):
    cloud.faults.stall_before = 3
    async with connect(cloud, connections=1) as client:
        assert_state(await prefill(client))
    assert cloud.connections == 2
    assert set(cloud.sent.values()) == {1}


async def test_a_full_worker_lets_the_connection_in_later(cloud, connect):
    code = StatusCode.TOO_MANY_CONNECTIONS
    cloud.faults.refuse_connections = [code, code]
    async with connect(cloud, connections=1) as client:
        assert_state(await prefill(client))
    assert cloud.connections == 3


@pytest.mark.parametrize("code", [StatusCode.CAPABILITY_INVALID, StatusCode.CAPABILITY_EXPIRED])
async def test_a_refused_capability_is_not_tried_again(cloud, connect, code):
    cloud.faults.refuse_connections = [code] * 9
    async with connect(cloud, connections=1) as client:
        with pytest.raises(PrefillCloudError) as caught:
            await prefill(client)
    assert caught.value.code is code
    assert cloud.connections == 1


@pytest.mark.parametrize("index", range(CHUNKS))
async def test_an_attempt_that_fails_at_a_chunk_ends_with_the_workers_code(cloud, connect, index):
    cloud.faults.fail_at = (index, StatusCode.WORKER_LOST)
    buffers = dirty_buffers()
    async with connect(cloud) as client:
        with pytest.raises(UnavailableError) as caught:
            await prefill(client, buffers=buffers)
    assert caught.value.code is StatusCode.WORKER_LOST
    assert is_zero(buffers)
    assert cloud.cancels == [(caught.value.request_id, 1, "WORKER_LOST")]
    assert cloud.calls["Claim"] == 0


@pytest.mark.parametrize("index", range(CHUNKS))
async def test_modified_bytes_are_refused_and_the_buffers_zeroed(cloud, connect, index):
    cloud.faults.flip = index
    buffers = dirty_buffers()
    async with connect(cloud) as client:
        with pytest.raises(IntegrityFailureError) as caught:
            await prefill(client, buffers=buffers)
    assert is_zero(buffers)
    assert caught.value.request_id == cloud.only.accept.request_id
    assert caught.value.falls_back


@pytest.mark.parametrize(
    "change", [{"layer": 2}, {"token_end": 1}, {"raw_bytes": 24}, {"index": 7}, {"head_end": 9}]
)
async def test_a_modified_header_is_refused(cloud, connect, change):
    cloud.faults.header = {2: change}
    async with connect(cloud) as client:
        with pytest.raises(IntegrityFailureError):
            await prefill(client)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_fingerprint": b"x" * 32},
        {"tokenizer_fingerprint": b"x" * 32},
        {"numerics_profile": "bf16-cache"},
        {"prompt_digest": b"x" * 32},
        {"attempt": 2},
        {"request_id": "req_" + "1" * 26},
        {"tenant": "birch"},
        {"worker_id": "w2"},
        {"fencing_epoch": 4},
        {"token_count": 13},
        {"state_tokens": 12},
        {"one_time_key_hash": b"x" * 32},
        {"offered_codecs": ("raw",)},
        {"expires_at_ms": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_manifest_of_something_else_is_refused(cloud, connect, changes):
    cloud.faults.manifest = changes
    buffers = dirty_buffers()
    async with connect(cloud) as client:
        with pytest.raises(IntegrityFailureError):
            await prefill(client, buffers=buffers)
    assert is_zero(buffers)
    assert len(cloud.cancels) == 1


async def test_every_chunk_without_a_manifest_is_nothing(cloud, connect):
    """The gateway keeps the manifest back: all bytes are here, and none of them is usable."""
    cloud.faults.refuse["Claim"] = StatusCode.BUDGET_EXHAUSTED
    buffers = dirty_buffers()
    async with connect(cloud) as client:
        with pytest.raises(PrefillCloudError) as caught:
            await prefill(client, buffers=buffers)
        assert set(cloud.sent) == set(range(CHUNKS))
        assert caught.value.code is StatusCode.BUDGET_EXHAUSTED
        assert is_zero(buffers)
        cloud.faults.refuse.clear()  # the twin: with the manifest the same chunks are a state
        assert_state(await prefill(client))


@pytest.mark.parametrize("fault", ["unasked", "endless", "ends", "nonsense"])
async def test_a_worker_that_breaks_the_protocol_is_refused(cloud, connect, fault):
    value = {"unasked": True, "endless": True, "ends": True, "nonsense": b"\x00\x00\x00\x00\xff"}[
        fault
    ]
    setattr(cloud.faults, fault, value)
    async with connect(cloud, connections=1) as client:
        with pytest.raises(IntegrityFailureError):
            await prefill(client)


@pytest.mark.parametrize(
    ("fault", "words"),
    [({"repeats": 90}, "larger than the model's"), ({"inflated": 4096}, "codes 128 bytes as")],
    ids=lambda value: str(value)[:12],
)
async def test_more_than_the_models_state_is_refused_before_it_is_held(
    cloud, connect, fault, words
):
    """The closing set is held unopened until the claim: it must not grow at the worker's will."""
    for name, value in fault.items():
        setattr(cloud.faults, name, value)
    async with connect(cloud, connections=1) as client:
        with pytest.raises(IntegrityFailureError, match=words):
            await prefill(client)
    assert cloud.sent.total() < 20
    assert cloud.calls["Claim"] == 0


async def test_two_prompts_at_once_stay_apart(cloud, connect):
    other = list(range(7, 40))
    async with connect(cloud) as client:
        states = await asyncio.gather(prefill(client), prefill(client, other))
    assert_state(states[0])
    assert_state(states[1], other)


async def test_the_models_are_listed(cloud, connect):
    async with connect(cloud) as client:
        (model,) = await client.models()
    assert (model.identity, model.max_tokens, model.datacenters) == (IDENTITY, 100, ("eu",))
