"""The committed vectors: today's code writes them, reads them, and refuses them when changed."""

import importlib.util
import json
from pathlib import Path

import pytest
from prefill_wire.capability import check_connection_proof, verify_capability
from prefill_wire.certificate import verify_certificate
from prefill_wire.channel import ChunkReceived, ClientChannel, End, ServerChannel
from prefill_wire.chunks import HEADER_BYTES, ChunkHeader
from prefill_wire.digests import chunk_digest, exchange_root
from prefill_wire.errors import IntegrityError, WireError
from prefill_wire.sealing import Envelope, OneTimeKey, open_manifest
from prefill_wire.signing import SigningKey

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"


def load_generator():
    spec = importlib.util.spec_from_file_location("golden_generate", GOLDEN / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = load_generator()


def vector(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def raw(text):
    return bytes.fromhex(text)


def changed_bytes(data):
    """Every truncation, every flipped bit, and one byte too many."""
    yield from (data[:size] for size in range(len(data)))
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            yield bytes(flipped)
    yield data + b"\0"


def assert_all_refused(read, data):
    read(data)  # the twin: unchanged it is taken
    for changed in changed_bytes(data):
        with pytest.raises(WireError):
            read(changed)


@pytest.mark.parametrize("name", GENERATE.VECTORS)
def test_todays_code_writes_the_vectors(name):
    assert GENERATE.render(name) == (GOLDEN / f"{name}.json").read_text()


def test_every_vector_file_is_generated():
    assert {path.stem for path in GOLDEN.glob("*.json")} == GENERATE.VECTORS.keys()


def test_signed_documents_and_their_changes():
    now_ms = GENERATE.NOW_MS
    known = vector("documents")
    control, worker = raw(known["control_public_key"]), raw(known["worker_public_key"])
    certificate = verify_certificate(control, raw(known["certificate"]), now_ms)
    assert (certificate.worker_id, certificate.public_key) == ("w1", worker)
    assert_all_refused(
        lambda data: verify_certificate(control, data, now_ms), raw(known["certificate"])
    )
    key = raw(known["capability_key"])
    capability = verify_capability(key, raw(known["capability"]), "w1", now_ms)
    assert (capability.attempt, capability.max_connections) == (7, 4)
    assert_all_refused(
        lambda data: verify_capability(key, data, "w1", now_ms), raw(known["capability"])
    )


def test_the_connection_proof_and_its_changes():
    known = vector("documents")
    key, nonce = GENERATE.numbered(32, 9), GENERATE.numbered(32, 5)
    capability = raw(known["capability"])
    assert_all_refused(
        lambda data: check_connection_proof(key, nonce, capability, data), raw(known["proof"])
    )
    with pytest.raises(WireError):
        check_connection_proof(key, GENERATE.numbered(32, 6), capability, raw(known["proof"]))


def test_a_signature_of_one_domain_is_worth_nothing_in_another():
    known = vector("documents")
    signed = SigningKey.from_seed(GENERATE.numbered(32)).sign("usage receipt", b"document")
    with pytest.raises(IntegrityError):
        verify_certificate(raw(known["control_public_key"]), signed, GENERATE.NOW_MS)


def test_the_envelope_and_its_changes():
    known = vector("envelope")
    key = OneTimeKey.from_private_bytes(raw(known["private_key"]))
    assert key.public_bytes == raw(known["public_key"])
    sealed = raw(known["encapsulated_key"]) + raw(known["ciphertext"])

    def read(data):
        return key.open_envelope(Envelope(data[:32], data[32:]), GENERATE.CONTEXT)

    assert read(sealed) == raw(known["secret"])
    # X25519 ignores the top bit of a public key (RFC 7748, section 5); HPKE binds it all the same.
    assert_all_refused(read, sealed)


def test_chunk_headers_round_trip_and_changes_never_pass_for_the_original():
    for chunk in vector("exchange")["chunks"]:
        data = raw(chunk["header"])
        header = ChunkHeader.decode(data)
        assert header.encode() == data
        for changed in changed_bytes(data):
            try:
                other = ChunkHeader.decode(changed)
            except WireError:
                continue
            assert other != header
            assert other.encode() == changed


def test_the_recorded_exchange_opens_and_its_manifest_does_not_change(make, now_ms):
    known, made = vector("exchange"), make()
    receiver = made.receiver()
    for chunk in known["chunks"]:
        receiver.accept(ChunkHeader.decode(raw(chunk["header"])), raw(chunk["ciphertext"]))
    assert receiver.root() == raw(known["root"])
    digests = [chunk_digest(raw(chunk["ciphertext"])) for chunk in known["chunks"]]
    assert exchange_root(digests) == raw(known["root"])
    sealed = raw(known["sealed_manifest"])
    state = receiver.close(sealed, raw(known["receipt"]), now_ms)
    got = {f"{layer} {kind.name}": a.tobytes().hex() for (layer, kind), a in state.tensors.items()}
    assert got == known["tensors"]
    assert_all_refused(lambda data: open_manifest(made.keys, made.expected.context, data), sealed)


def test_the_recorded_manifest_of_several_codecs_tells_each_with_its_bound(make, mixed, now_ms):
    known, made = vector("mixed"), make(coding=mixed)
    headers = [ChunkHeader.decode(raw(text)) for text in known["headers"]]
    receiver = made.receiver()
    for header, chunk in zip(headers, made.chunks, strict=True):
        receiver.accept(header, chunk.ciphertext)
    state = receiver.close(raw(known["sealed_manifest"]), made.finished.receipt, now_ms)
    told = {t.spec.kind: (t.codec, t.error_bound) for t in state.manifest.tensors}
    assert told == {kind: mixed.of[kind] for kind in told}
    numbers = vector("codecs")
    assert {h.codec for h in headers[:-1]} == {numbers[c.wire_name] for c, _ in told.values()}


def fed(client, data, portion):
    """The events of some bytes that come in portions."""
    starts = range(0, len(data), portion)
    return [e for start in starts for e in client.receive(data[start : start + portion])]


@pytest.mark.parametrize("portion", [1, 3, 1 << 20])
def test_the_recorded_connection_in_any_portions(portion):
    known = vector("channel")
    client = ClientChannel(GENERATE.numbered(60), GENERATE.numbered(32, 9))
    hello, ready, *rest = (raw(text) for text in known["to_client"].values())
    events = fed(client, hello + ready, portion)
    assert client.data_to_send() == raw(known["to_server"]["authenticate"])
    client.pull(0, 7)
    events += fed(client, b"".join(rest), portion)
    names = [type(event).__name__ for event in events]
    assert names == ["Ready", "Progress", "ChunkReceived", "End", "Failed"]
    frame = raw(known["to_client"]["chunk"])
    assert events[2].header.encode() + events[2].ciphertext == frame[5:]
    assert isinstance(events[2], ChunkReceived)
    assert events[3] == End(6)
    assert len(frame) == 5 + HEADER_BYTES + len(events[2].ciphertext)


def test_the_recorded_pulls_in_single_bytes():
    known = vector("channel")["to_server"]
    server = ServerChannel(GENERATE.numbered(32, 5))
    server.greeting()
    events = [
        event for byte in raw(known["authenticate"]) for event in server.receive(bytes([byte]))
    ]
    server.ready()
    for byte in raw(known["pulls"]):
        events += server.receive(bytes([byte]))
    names = [type(event).__name__ for event in events]
    assert names == ["Authenticate", "Pull", "Pull", "Goodbye"]


def test_frames_spliced_from_another_connection_are_refused():
    """A proof recorded on one connection is no proof on the next: the nonce is fresh."""
    known = vector("channel")
    replayed = ServerChannel(GENERATE.numbered(32, 6))
    replayed.greeting()
    (shown,) = replayed.receive(raw(known["to_server"]["authenticate"]))
    with pytest.raises(WireError):
        check_connection_proof(
            GENERATE.numbered(32, 9), replayed.nonce, shown.capability, shown.proof
        )
