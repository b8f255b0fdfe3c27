"""What the engine refuses, and what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
from prefill_engine.engine import Handle, StepEngine
from prefill_engine.errors import SequenceError, StateMismatch, TokenOutOfRange, UnsupportedConfig
from prefill_engine.identity import identify
from prefill_engine.random_checkpoint import write_random_checkpoint
from prefill_wire.identity import ModelIdentity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_checkpoint(tmp_path_factory.mktemp("random-checkpoint"), 2)


@pytest.fixture
def engine(folder):
    return StepEngine.load(folder, max_tokens=64)


def test_it_says_who_it_is(folder, engine):
    known = identify(folder)
    fingerprints = known.fingerprint, known.tokenizer_fingerprint
    assert engine.identity == ModelIdentity(folder.name, *fingerprints, "fp32")
    assert engine.profile == "fp32"
    served = StepEngine.load(folder, name="served", profile="bf16-cache").identity
    assert served == ModelIdentity("served", *fingerprints, "bf16-cache")
    assert ModelIdentity.from_message(served.message()) == served


def test_max_tokens_is_the_context_unless_given(folder, engine):
    assert engine.max_tokens == 64
    assert StepEngine.load(folder).max_tokens == engine.config.context_tokens == 32_768
    for wrong in (0, 32_769):
        with pytest.raises(TokenOutOfRange, match=f"max_tokens is {wrong}.*ask for 1 to 32768"):
            StepEngine.load(folder, max_tokens=wrong)


def test_an_unknown_profile_is_refused(folder):
    with pytest.raises(UnsupportedConfig, match="profile 'fp8' is unknown"):
        StepEngine.load(folder, profile="fp8")


def test_bytes_are_told_before_they_are_allocated(engine):
    assert engine.state_bytes == 0
    first, second = engine.open([1] * 10), engine.open([1] * 20)
    held = sum(
        tensor.numel() * tensor.element_size()
        for sequence in engine._sequences.values()
        for tensor in sequence.state.values()
    )
    ids = 8 * 30
    assert engine.state_bytes == engine.sequence_bytes(10) + engine.sequence_bytes(20) == held + ids
    engine.close(first)
    engine.close(second)
    engine.close(second)
    assert engine.state_bytes == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "sequence of 0 tokens; send 1 to 64"),
        ([1] * 65, "sequence of 65 tokens; send 1 to 64"),
        ([1, 9999], "token id 9999"),
        ([-1], "token id -1"),
    ],
)
def test_a_bad_prompt_is_refused_and_leaves_nothing(engine, tokens, message):
    with pytest.raises(TokenOutOfRange, match=message):
        engine.open(tokens)
    assert engine.state_bytes == 0


def test_a_step_stays_within_its_sequence(engine):
    handle = engine.open([1, 2, 3])
    for count in (0, -1, 4):
        with pytest.raises(SequenceError, match=f"step of {count} tokens at 0 of 3"):
            engine.step([(handle, count)])
    with pytest.raises(SequenceError, match="no token was stepped over"):
        engine.last_logits(handle)
    engine.step([(handle, 3)])
    with pytest.raises(SequenceError, match="3 tokens are used up"):
        engine.decode_step(handle, 1)


def test_a_handle_that_is_not_open_is_refused(engine):
    handle = engine.open([1])
    engine.close(handle)
    for closed in (handle, Handle(99)):
        with pytest.raises(SequenceError, match=f"sequence {closed.number} is not open"):
            engine.step([(closed, 1)])


def test_a_token_beyond_the_vocabulary_is_no_token_to_decode(engine):
    handle = engine.load_state(*state_of(engine, 5), 8)
    with pytest.raises(TokenOutOfRange, match=f"token id {engine.vocab_size} is not in 0 to"):
        engine.decode_step(handle, engine.vocab_size)


def state_of(engine, covered):
    handle = engine.open([1] * covered)
    pieces = engine.prefill(handle, covered)
    engine.close(handle)
    return covered, {piece.spec.key: piece.array for piece in pieces}


def test_a_state_that_is_not_this_models_is_refused(engine):
    covered, tensors = state_of(engine, 5)
    engine.load_state(covered, tensors, 8)
    key = next(iter(tensors))
    lacking = {k: v for k, v in tensors.items() if k != key}
    with pytest.raises(StateMismatch, match="differ"):
        engine.load_state(covered, lacking, 8)
    for spoilt in (tensors[key][..., :-1], tensors[key].astype(np.float16)):
        with pytest.raises(StateMismatch, match=f"layer {key[0]} {key[1].name} is"):
            engine.load_state(covered, {**tensors, key: spoilt}, 8)
    with pytest.raises(StateMismatch, match="LATENT_KV is"):
        engine.load_state(4, tensors, 8)


@pytest.mark.parametrize(
    ("capacity", "message"), [(4, "state over 5 tokens"), (65, "sequence of 65")]
)
def test_a_state_fits_its_capacity_and_that_the_limit(engine, capacity, message):
    covered, tensors = state_of(engine, 5)
    with pytest.raises(TokenOutOfRange, match=message):
        engine.load_state(covered, tensors, capacity)


def test_scoring_a_text_is_decoding_it_token_by_token(engine):
    covered, tensors = state_of(engine, 5)
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    scored = engine.load_state(covered, tensors, 20)
    decoded = engine.load_state(covered, tensors, 20)
    logits = engine.score(scored, text)
    for row, token in zip(logits, text, strict=True):
        assert np.abs(row - engine.decode_step(decoded, token)).max() < 1e-4
    assert engine.position(scored) == engine.position(decoded) == 13
    assert np.abs(engine.last_logits(scored) - logits[-1]).max() < 1e-5
    with pytest.raises(SequenceError, match="8 tokens at 13 of 20"):
        engine.score(scored, text)


def test_scratch_memory_does_not_grow_with_the_prefix(folder):
    engine = StepEngine.load(folder)
    handle = engine.open([1] * 4_096)
    held = []
    for _ in range(8):
        engine.step([(handle, 512)])
        held.append(engine.model.space.nbytes)
    assert held[-1] == held[4] > held[0]  # from the first whole block of earlier tokens on
