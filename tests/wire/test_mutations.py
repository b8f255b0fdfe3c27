"""Recorded exchanges, mutated 14,000 times: every one is refused, typed, and leaves zeroes.

A repetition of the very same chunk and another order of whole chunks are no mutations: the index is
under the seal, so pulls may repeat and overtake (test_exchange). Here a duplicate comes under
another index, and a reordering exchanges contents.
"""

import random
from dataclasses import replace

import numpy as np
import prefill_wire.receipt
import prefill_wire.receiver
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from google.protobuf.message import DecodeError
from prefill_wire.channel import ChunkReceived, ClientChannel, ServerChannel
from prefill_wire.chunks import ChunkHeader
from prefill_wire.errors import IntegrityError, WireError
from prefill_wire.framing import FrameType, encode_frame
from prefill_wire.limits import SEAL_OVERHEAD_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import STATUS_TABLE

PER_KIND = 1_000
NONCE, KEY, CAPABILITY = b"n" * 32, b"k" * 32, b"c" * 60
CODEC_BYTE = 15  # in a chunk's header: after version, index, role, key class, layer and three more
UNKNOWN_FIELD = b"\x9a\x06\x01x"  # number 99, one byte


@pytest.fixture(scope="module")
def recorded(make, mixed):
    """An exchange of several codecs, and others that differ from it in one thing each."""
    others = {
        "request": make("b", coding=mixed),
        "attempt": make(attempt=2, coding=mixed),
        "tenant": make(tenant="other", coding=mixed),
        "model": make(model="n", coding=mixed),
        "prompt": make(tokens=range(1, 8), coding=mixed),
        "policy": make(),
    }
    return make(coding=mixed), others


def original(exchange):
    done = exchange.finished
    return exchange.messages(), done.sealed_manifest, done.receipt


def deliver(receiver, messages, manifest, receipt, now_ms):
    """Play to a receiver whatever it says, as a modified client would: its state, its refusals."""
    refusals = []
    for header, ciphertext in messages:
        try:
            receiver.accept(ChunkHeader.decode(header), ciphertext)
        except WireError as error:
            refusals.append(error)
    try:
        return receiver.close(manifest, receipt, now_ms), refusals
    except WireError as error:
        return None, [*refusals, error]


def flip(data, dice):
    changed = bytearray(data)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(data, dice):
    return data[: dice.randrange(len(data))]


def on_chunk(change):
    """A mutation of one chunk: `change(messages, i, j, dice)` works in place."""

    def mutate(exchange, others, dice):
        messages, manifest, receipt = original(exchange)
        i, j = dice.sample(range(len(messages)), 2)
        change(messages, i, j, dice)
        return messages, manifest, receipt

    return mutate


def flip_chunk(messages, i, _j, dice):
    header, ciphertext = messages[i]
    messages[i] = dice.choice([(flip(header, dice), ciphertext), (header, flip(ciphertext, dice))])


def truncate_chunk(messages, i, _j, dice):
    header, ciphertext = messages[i]
    messages[i] = dice.choice([(cut(header, dice), ciphertext), (header, cut(ciphertext, dice))])


def drop_chunks(messages, _i, _j, dice):
    for index in sorted(dice.sample(range(len(messages)), dice.randint(1, 3)), reverse=True):
        del messages[index]


def duplicate_chunk(messages, i, j, dice):
    """Chunk i once more, under its neighbour's header or under a new index."""
    header = ChunkHeader.decode(messages[i][0])
    renumbered = replace(header, index=dice.randrange(1 << 20)).encode()
    messages.insert(dice.randrange(len(messages)), (renumbered, messages[i][1]))
    if renumbered == messages[i][0] or dice.random() < 0.5:
        messages.append((messages[j][0], messages[i][1]))


def reorder_chunks(messages, i, j, _dice):
    messages[i], messages[j] = (
        (messages[i][0], messages[j][1]),
        (messages[j][0], messages[i][1]),
    )


def recode_chunk(messages, i, _j, dice):
    """The same bytes under the name of another codec: every codec is tried, also unknown ones."""
    header, ciphertext = messages[i]
    at = CODEC_BYTE
    other = dice.choice([n for n in range(16) if n != header[at]])
    messages[i] = (header[:at] + bytes([other]) + header[at + 1 :], ciphertext)


def splice_chunks(exchange, others, dice):
    messages, manifest, receipt = original(exchange)
    other = others[dice.choice(["request", "attempt", "tenant", "prompt", "policy"])].messages()
    for index in dice.sample(range(len(messages)), dice.randint(1, len(messages))):
        messages[index] = other[index]
    return messages, manifest, receipt


def splice_documents(exchange, others, dice):
    """Another exchange's manifest, receipt or both; with its chunks too, all but the request."""
    messages, manifest, receipt = original(exchange)
    other = original(others[dice.choice(list(others))])
    which = dice.randrange(4)
    if which == 3:
        return other
    manifest = other[1] if which != 1 else manifest
    return messages, manifest, other[2] if which else receipt


def on_document(change):
    def mutate(exchange, others, dice):
        messages, manifest, receipt = original(exchange)
        if dice.random() < 0.5:
            return messages, change(manifest, dice), receipt
        return messages, manifest, change(receipt, dice)

    return mutate


def extend_document(data, dice):
    """A second form of a document: repeated, with an unknown field, with bytes behind it."""
    return data + dice.choice([data, UNKNOWN_FIELD, dice.randbytes(dice.randint(1, 40))])


def exchange_documents(exchange, _others, _dice):
    messages, manifest, receipt = original(exchange)
    return messages, receipt, manifest


def on_stream(change):
    """A mutation of the framed bytes, parsed by the SDK's end of a channel."""

    def mutate(exchange, others, dice):
        server, client = ServerChannel(NONCE), ClientChannel(CAPABILITY, KEY)
        client.receive(server.greeting() + encode_frame(FrameType.READY))
        chunks = exchange.chunks
        frames = [server.chunk_prefix(c.header, len(c.ciphertext)) + c.ciphertext for c in chunks]
        data = change(b"".join(frames), dice)
        messages = []
        try:
            for start in range(0, len(data), 64):
                for event in client.receive(data[start : start + 64]):
                    assert isinstance(event, ChunkReceived)
                    messages.append((event.header.encode(), event.ciphertext))
        except WireError:
            pass  # the connection ends; the receiver must refuse what came until then
        return messages, *original(exchange)[1:]

    return mutate


def delete_bytes(data, dice):
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.randint(1, 300) :]


def insert_bytes(data, dice):
    at = dice.randrange(len(data) - 1)
    return data[:at] + dice.randbytes(dice.randint(1, 300)) + data[at:]


KINDS = {
    "flip a chunk": on_chunk(flip_chunk),
    "truncate a chunk": on_chunk(truncate_chunk),
    "drop chunks": on_chunk(drop_chunks),
    "duplicate a chunk elsewhere": on_chunk(duplicate_chunk),
    "reorder contents": on_chunk(reorder_chunks),
    "swap a codec": on_chunk(recode_chunk),
    "splice chunks": splice_chunks,
    "splice documents": splice_documents,
    "flip a document": on_document(flip),
    "truncate a document": on_document(cut),
    "extend a document": on_document(extend_document),
    "flip the stream": on_stream(flip),
    "delete from the stream": on_stream(delete_bytes),
    "insert into the stream": on_stream(insert_bytes),
}


def campaign(kind, recorded, receiver_of, now_ms, count=PER_KIND):
    """How many of `count` mutations of a kind are accepted."""
    exchange, others = recorded
    dice, accepted, played = random.Random(kind), 0, 0
    while played < count:
        mutated = KINDS[kind](exchange, others, dice)
        if mutated == original(exchange):
            continue
        played += 1
        receiver = receiver_of(exchange)
        state, refusals = deliver(receiver, *mutated, now_ms)
        if state is not None:
            accepted += 1
            continue
        assert refusals
        assert all(error.code in STATUS_TABLE and error.remedy for error in refusals)
        assert not any(np.any(array) for array in receiver._buffers.arrays.values())
    return accepted


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutation_is_refused(recorded, now_ms, kind):
    assert campaign(kind, recorded, lambda exchange: exchange.receiver(), now_ms) == 0


def test_there_are_enough_mutations():
    assert len(KINDS) * PER_KIND >= 10_000


def test_the_unmutated_exchange_is_accepted(recorded, now_ms):
    for exchange in (recorded[0], *recorded[1].values()):
        state, refusals = deliver(exchange.receiver(), *original(exchange), now_ms)
        assert refusals == []
        for key, array in exchange.state.items():
            assert state.tensors[key].tobytes() == array.tobytes()


def test_documents_exchanged_are_refused(recorded, now_ms):
    exchange = recorded[0]
    state, refusals = deliver(
        exchange.receiver(), *exchange_documents(exchange, None, None), now_ms
    )
    assert state is None
    assert refusals


# Twins: with one check switched off, the same campaign does find something to accept.


class Identityless(prefill_wire.receiver.StateReceiver):
    def _check_identity(self, manifest, bill, now_ms):
        pass


class Untiled(prefill_wire.receiver.StateReceiver):
    def _check_chunks(self, manifest):
        pass


def careless(kind):
    """Makes receivers of a class that checks less than the real one."""

    def build(exchange):
        genuine = exchange.receiver()
        return kind(exchange.expected, exchange.keys, genuine._decode)

    return build


def without_tag(key, context, header, ciphertext):
    """GCM's keystream without its authentication."""
    counter = header.index.to_bytes(12, "little") + (2).to_bytes(4, "big")
    decryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).decryptor()
    return decryptor.update(ciphertext[:-SEAL_OVERHEAD_BYTES])


def without_signature(_public, signed):
    try:
        document = prefill_pb2.SignedDocument.FromString(signed).document
        parsed = prefill_pb2.UsageReceipt.FromString(document)
    except DecodeError:
        raise IntegrityError("no protobuf") from None
    names = [field.name for field in prefill_wire.receipt.fields(prefill_wire.receipt.UsageReceipt)]
    return prefill_wire.receipt.UsageReceipt(**{name: getattr(parsed, name) for name in names})


def test_a_receiver_without_identity_checks_is_noticed(recorded, now_ms):
    build = careless(Identityless)
    assert campaign("splice documents", recorded, build, now_ms, 200) > 0


def test_a_receiver_without_the_chunk_list_is_noticed(recorded, now_ms):
    """Its byte counts still hold a drop off, so the receipt must lie as well: identity is off."""

    class Neither(Untiled, Identityless):
        def _place(self, header, payload):
            super()._place(header, payload)
            self.raw_bytes, self.sent_bytes = self.claimed

    exchange = recorded[0]
    receipt = without_signature(None, exchange.finished.receipt)
    Neither.claimed = (receipt.state_bytes_raw, receipt.state_bytes_sent)
    build = careless(Neither)
    assert campaign("drop chunks", recorded, build, now_ms, 200) > 0


def test_a_receiver_without_authentication_is_noticed(recorded, now_ms, monkeypatch):
    monkeypatch.setattr(prefill_wire.receiver, "open_chunk", without_tag)
    build = careless(Untiled)
    assert campaign("flip a chunk", recorded, build, now_ms, 200) > 0


def test_a_receiver_without_the_receipts_signature_is_noticed(recorded, now_ms, monkeypatch):
    monkeypatch.setattr(prefill_wire.receiver, "verify_receipt", without_signature)
    assert campaign("extend a document", recorded, lambda e: e.receiver(), now_ms, 200) > 0
