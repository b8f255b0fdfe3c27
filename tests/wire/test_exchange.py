"""From producer to receiver: the whole state arrives, and nothing less ever does."""

from dataclasses import replace

import numpy as np
import pytest
from prefill_wire.chunks import ChunkHeader, KeyClass
from prefill_wire.errors import ChannelError, IdentityError, IntegrityError, WireError
from prefill_wire.sealing import open_chunk


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
    assert not any(np.any(array) for array in receiver._buffers.arrays.values())


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


def test_only_the_identity_checks_tell_another_models_state(make, now_ms):
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
