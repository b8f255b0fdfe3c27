"""From producer to receiver: the whole state arrives, and nothing less ever does."""

import random
from dataclasses import replace

import numpy as np
import pytest
from prefill_wire.chunks import ChunkHeader, KeyClass
from prefill_wire.errors import ChannelError, IdentityError, IntegrityError, WireError
from prefill_wire.sealing import open_chunk

MUTATIONS = 12_000


def play(receiver, messages, manifest, receipt, now_ms):
    """Feed recorded messages to a receiver as an SDK does."""
    for header, ciphertext in messages:
        receiver.accept(ChunkHeader.decode(header), ciphertext)
    receiver.root()
    return receiver.close(manifest, receipt, now_ms)


def assert_same_state(verified, exchange):
    assert verified.tensors.keys() == exchange.state.keys()
    for key, array in exchange.state.items():
        assert verified.tensors[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("order", ["as sent", "reversed", "twice"])
def test_a_whole_exchange_is_accepted_in_any_order(make, now_ms, order):
    exchange = make()
    messages = exchange.messages()
    messages = {"as sent": messages, "reversed": messages[::-1], "twice": messages * 2}[order]
    done = exchange.finished
    verified = play(exchange.receiver(), messages, done.sealed_manifest, done.receipt, now_ms)
    assert_same_state(verified, exchange)
    assert verified.receipt.state_bytes_raw == sum(a.nbytes for a in exchange.state.values())
    assert verified.manifest.state_tokens == 6


def test_early_pieces_are_in_the_buffers_before_the_claim(make):
    exchange = make()
    receiver = exchange.receiver()
    stream = [c for c in exchange.chunks if c.header.key_class is KeyClass.STREAM]
    for chunk in stream:
        receiver.accept(chunk.header, chunk.ciphertext)
    assert receiver.missing(len(exchange.chunks)) == [
        c.header.index for c in exchange.chunks if c.header.key_class is KeyClass.CLOSE
    ]
    assert receiver.raw_bytes == 4 * 12 * 2


def test_the_closing_set_stays_shut_without_the_manifest(make):
    """A modified client that holds every chunk and every derived key has no key for it."""
    exchange = make()
    closing = [c for c in exchange.chunks if c.header.key_class is KeyClass.CLOSE]
    assert {c.header.kind.name for c in closing} == {"RECURRENT", "CONV", "LATENT_KV"}
    keys = (exchange.keys.stream, exchange.keys.manifest, exchange.keys.connection)
    for chunk in closing:
        for key in keys:
            with pytest.raises(IntegrityError):
                open_chunk(key, exchange.expected.context, chunk.header, chunk.ciphertext)


@pytest.mark.parametrize(
    "change",
    [
        {"model_fingerprint": b"x" * 32},
        {"tokenizer_fingerprint": b"x" * 32},
        {"numerics_profile": "bf16-cache"},
        {"one_time_key_hash": b"x" * 32},
        {"offered_codecs": ("raw", "planes-zstd")},
        {"offered_wire_versions": (1, 2)},
        {"fencing_epoch": 4},
        {"worker_id": "w2"},
        {"control_public_key": b"\x01" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_state_of_something_else_is_refused(make, now_ms, change):
    exchange = make()
    receiver, done = exchange.receiver(**change), exchange.finished
    with pytest.raises((IdentityError, IntegrityError)):
        play(receiver, exchange.messages(), done.sealed_manifest, done.receipt, now_ms)
    assert not any(np.any(array) for array in receiver._tensors.values())


def test_an_expired_manifest_or_certificate_is_refused(make, now_ms):
    exchange = make()
    done = exchange.finished
    for late_ms in (now_ms + 1000, now_ms + 10**7):
        with pytest.raises(IdentityError):
            play(
                exchange.receiver(),
                exchange.messages(),
                done.sealed_manifest,
                done.receipt,
                late_ms,
            )


def test_a_receiver_is_spent_after_a_refusal(make, now_ms):
    exchange = make()
    receiver, done = exchange.receiver(), exchange.finished
    with pytest.raises(WireError):
        receiver.close(done.sealed_manifest, done.receipt, now_ms)
    with pytest.raises(ChannelError):
        receiver.accept(exchange.chunks[0].header, exchange.chunks[0].ciphertext)


def flip(data, dice):
    changed = bytearray(data)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def mutate(exchange, others, dice):
    """One mutation of an exchange: messages, manifest and receipt that must be refused."""
    messages, done = exchange.messages(), exchange.finished
    manifest, receipt = done.sealed_manifest, done.receipt
    other = dice.choice(others)
    i, j = dice.sample(range(len(messages)), 2)
    header, ciphertext = messages[i]
    kind = dice.randrange(10)
    if kind == 0:
        messages[i] = (flip(header, dice), ciphertext)
    elif kind == 1:
        messages[i] = (header, flip(ciphertext, dice))
    elif kind == 2:
        messages[i] = (header, ciphertext[: dice.randrange(len(ciphertext))])
    elif kind == 3:
        del messages[i]
    elif kind == 4:
        messages[i] = (messages[j][0], ciphertext)
    elif kind == 5:
        messages[i] = other.messages()[i]
    elif kind == 6:
        manifest = dice.choice([flip(manifest, dice), manifest[: dice.randrange(len(manifest))]])
    elif kind == 7:
        receipt = dice.choice([flip(receipt, dice), receipt[: dice.randrange(len(receipt))]])
    elif kind == 8:
        manifest = other.finished.sealed_manifest
    else:
        receipt = other.finished.receipt
    return messages, manifest, receipt


def test_every_mutation_is_refused_and_leaves_nothing(make, now_ms):
    exchange = make()
    others = [make("b"), make(attempt=2), make(tenant="other"), make(request="c", model="n")]
    dice = random.Random(1)
    accepted = []
    for number in range(MUTATIONS):
        messages, manifest, receipt = mutate(exchange, others, dice)
        receiver = exchange.receiver()
        try:
            play(receiver, messages, manifest, receipt, now_ms)
        except WireError:
            if receiver._spent:
                assert not any(np.any(array) for array in receiver._tensors.values())
        else:
            accepted.append(number)
    assert accepted == []


def test_the_mutation_detector_fires(make, now_ms):
    """With the binding checks taken out, splices from another model's state do get through."""
    exchange, done = make(), make().finished

    class Careless(type(exchange.receiver())):
        def _check_identity(self, manifest, bill, now_ms):
            pass

    wrong = replace(exchange.expected, model_fingerprint=b"x" * 32)
    reference = exchange.receiver()
    careless = Careless(wrong, exchange.keys, reference._decode)
    verified = play(careless, exchange.messages(), done.sealed_manifest, done.receipt, now_ms)
    assert_same_state(verified, exchange)
