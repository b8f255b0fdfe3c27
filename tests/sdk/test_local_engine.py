"""The engine in this process: a state from the cloud decodes as if it had been prefilled here."""

from pathlib import Path

import numpy as np
import prefill_engine
import pytest
from loopback_cloud import LoopbackCloud
from prefill_cloud import LocalEngine, PrefillCloudError, Route
from prefill_cloud.decode.engine import DecodeEngine
from prefill_cloud.decode.sampling import Sampling
from prefill_engine.bench.codec_quality import divergence
from prefill_engine.engine import StepEngine
from prefill_engine.training.mqar import recall_batch
from prefill_wire.status import StatusCode

MQAR = Path(prefill_engine.__file__).parent / "checkpoints" / "mqar"
NEW_TOKENS = 8
RECALL_KL = {"exact": 0.0, "near-lossless": 1e-5, "auto": 1e-5, "compact": 3e-4}


@pytest.fixture(scope="module")
def step_engine():
    return StepEngine.load(MQAR, max_tokens=600)


@pytest.fixture
def prompt():
    return np.random.default_rng(5).integers(3, 190, 96).astype(np.uint32)


@pytest.fixture
async def real_cloud(step_engine):
    """A cloud that prefills with an engine of its own."""
    worker = StepEngine.load(MQAR, max_tokens=600)

    def state_of(tokens):
        handle = worker.open(tokens)
        parts = {}
        for piece in worker.prefill(handle, len(tokens) - 1):
            parts.setdefault(piece.spec.key, []).append(piece.array)
        worker.close(handle)
        return {key: np.concatenate(arrays) for key, arrays in parts.items()}

    async with LoopbackCloud(state_of, worker.schema, worker.identity) as running:
        running.rows_a_chunk = 32
        yield running


def plainly(engine, prompt, count=NEW_TOKENS, sampling=None):
    """What the step engine alone decodes."""
    handle = engine.open(np.pad(prompt, (0, count)))
    engine.prefill(handle, len(prompt) - 1)
    tokens = [int(prompt[-1])]
    for _ in range(count):
        tokens.append(int(engine.decode_step(handle, tokens[-1]).argmax()))
    engine.close(handle)
    return tokens[1:]


@pytest.mark.parametrize("policy", ["exact", "near-lossless", "compact", "auto"])
async def test_what_is_recalled_from_a_rounded_state_is_what_the_exact_one_recalls(
    real_cloud, connect, step_engine, policy
):
    """The trained model's answers to every key, and their KL in nats: small, yet not nothing."""
    batch, kl = recall_batch(7, 4, 32), []
    split = batch.prompt_tokens + 1
    async with connect(real_cloud) as client:
        for row in batch.tokens:
            prompt, rest = row[:split].astype(np.uint32), row[split - 1 : -1]
            asked = (prompt, step_engine.identity, step_engine.schema)
            logits = []
            for each in ("exact", policy):
                state = await client.prefill(*asked, deadline_seconds=30.0, codec_policy=each)
                handle = step_engine.load_state(split - 1, state.tensors, len(row))
                logits.append(step_engine.score(handle, rest)[::2])  # keys; values lie between
                step_engine.close(handle)
            assert np.array_equal(*(rows.argmax(-1) for rows in logits))
            kl.append(divergence(*logits).mean())
    assert np.mean(kl) <= RECALL_KL[policy]
    assert (np.mean(kl) > 0.0) == (policy != "exact")


async def test_cloud_and_local_give_the_same_tokens(real_cloud, connect, step_engine, prompt):
    wanted = plainly(step_engine, prompt)
    async with connect(real_cloud) as client:
        session = client.session(LocalEngine(step_engine, kept_sequences=0))
        cloud = await session.generate(prompt, max_new_tokens=NEW_TOKENS)
        real_cloud.faults.fail_at = (2, StatusCode.WORKER_LOST)
        local = await session.generate(prompt, max_new_tokens=NEW_TOKENS)
    assert (cloud.route, local.route) == (Route.CLOUD, Route.LOCAL)
    assert cloud.tokens == local.tokens == wanted
    assert local.fallback_code is StatusCode.WORKER_LOST
    assert step_engine.state_bytes == 0  # nothing is left open


async def test_a_seed_draws_the_same_on_both_routes(real_cloud, connect, step_engine, prompt):
    options = {"max_new_tokens": NEW_TOKENS, "temperature": 1.5, "top_p": 0.9, "seed": 11}
    async with connect(real_cloud) as client:
        session = client.session(LocalEngine(step_engine, kept_sequences=0))
        cloud = await session.generate(prompt, **options)
        real_cloud.faults.refuse["Open"] = StatusCode.CAPACITY_EXHAUSTED
        local = await session.generate(prompt, **options)
        other = await session.generate(prompt, **{**options, "seed": 12})
    assert cloud.tokens == local.tokens
    assert other.tokens != local.tokens


async def test_a_session_takes_a_bare_step_engine(real_cloud, connect, step_engine, prompt):
    async with connect(real_cloud) as client:
        result = await client.session(step_engine).generate(prompt, max_new_tokens=NEW_TOKENS)
    assert result.tokens == plainly(step_engine, prompt)
    assert step_engine.state_bytes == 0  # the client freed what its session had kept


async def test_the_next_turn_goes_on_from_the_last_one(real_cloud, connect, step_engine, prompt):
    real_cloud.threshold_tokens = 50
    async with connect(real_cloud) as client:
        engine = LocalEngine(step_engine)
        session = client.session(engine)
        first = await session.generate(prompt, max_new_tokens=NEW_TOKENS)
        following = np.concatenate([prompt, first.tokens, prompt[:20]])
        second = await session.generate(following, max_new_tokens=NEW_TOKENS)
        engine.free()
    assert (first.route, second.route) == (Route.CLOUD, Route.LOCAL)
    assert second.reason == "21 uncached tokens, at most the threshold of 50"
    assert second.tokens == plainly(step_engine, following)
    assert real_cloud.calls["Open"] == 1


def covered(engine, prompt, room=NEW_TOKENS):
    return engine.prefix(prompt, len(prompt) + room)


def test_what_a_prefix_is(step_engine, prompt):
    engine = LocalEngine(step_engine, spare_tokens=40)
    handle = engine.open(prompt, len(prompt) + NEW_TOKENS)
    while engine.prefill(handle) < len(prompt) - 1:
        pass
    steps = engine.decode(handle, Sampling())
    made = [next(steps) for _ in range(NEW_TOKENS)]
    engine.close(handle)
    held = len(prompt) + NEW_TOKENS - 1  # the last token made was not stepped over
    whole = np.concatenate([prompt, made, prompt[:9]])
    assert covered(engine, whole) == held
    assert covered(engine, whole, room=60) == 0  # no room for so many new tokens
    assert covered(engine, prompt) == 0  # a state cannot go back
    changed = whole.copy()
    changed[3] += 1
    assert covered(engine, changed) == 0
    engine.free()
    assert covered(engine, whole) == 0
    assert step_engine.state_bytes == 0


def test_the_oldest_kept_sequence_goes_first(step_engine, prompt):
    engine = LocalEngine(step_engine, kept_sequences=2)
    for number in range(3):
        handle = engine.open(prompt[number:], len(prompt))
        engine.prefill(handle)
        engine.close(handle)
    longer = [np.concatenate([prompt[n:], prompt]) for n in range(3)]
    assert [covered(engine, each, room=1) > 0 for each in longer] == [False, True, True]
    engine.free()


def test_ids_beyond_the_vocabulary_are_refused_without_telling_them(step_engine, prompt):
    engine = LocalEngine(step_engine)
    prompt[7] = 40_404
    with pytest.raises(PrefillCloudError) as caught:
        engine.open(prompt, len(prompt) + 1)
    assert caught.value.code is StatusCode.TOKEN_OUT_OF_RANGE
    assert "position 7" in str(caught.value)
    assert "40404" not in str(caught.value)


def test_an_engine_from_a_folder_has_its_text():
    engine = LocalEngine.from_folder(MQAR, max_tokens=64)
    assert isinstance(engine, DecodeEngine)
    assert (engine.identity.name, engine.max_tokens) == ("mqar", 64)
    assert engine.vocabulary.encode("") == []


def test_a_step_engine_is_no_decode_engine(step_engine):
    assert not isinstance(step_engine, DecodeEngine)
