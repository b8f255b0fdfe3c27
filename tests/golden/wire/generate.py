"""Writes the wire's golden vectors: `python tests/golden/wire/generate.py`.

Every value comes from a fixed seed, so a run on unchanged code changes nothing. HPKE is randomised:
its envelope was recorded once and is kept while it opens. A diff here is a change of the protocol.
"""

import importlib.util
import json
from pathlib import Path

from prefill_wire.capability import Capability, connection_proof, issue_capability
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.channel import ClientChannel, Progress, ServerChannel
from prefill_wire.codecs import Codec
from prefill_wire.digests import (
    block_hashes,
    chunk_digest,
    exchange_root,
    key_hash,
    prompt_digest,
    token_bytes,
)
from prefill_wire.errors import IntegrityError
from prefill_wire.ids import new_receipt_id, new_request_id
from prefill_wire.sealing import (
    AttemptContext,
    AttemptKeys,
    Envelope,
    OneTimeKey,
    seal_chunk,
    seal_envelope,
)
from prefill_wire.signing import SigningKey
from prefill_wire.status import StatusCode

HERE = Path(__file__).parent
RECORDER = HERE.parents[1] / "wire" / "recorded_exchange.py"
NOW_MS = 1_800_000_000_000


def recorder():
    """tests/wire/recorded_exchange.py, which records exchanges."""
    spec = importlib.util.spec_from_file_location("wire_recorder", RECORDER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbered(count, first=0):
    return bytes((first + i) % 256 for i in range(count))


CONTEXT = AttemptContext("req_" + "0" * 26, 7, "acme", numbered(32, 100))


def digests():
    tokens = token_bytes([0, 1, 163_839, 2**32 - 1])
    hashes = block_hashes(token_bytes(range(10)), 4, b"acme")
    parts = [chunk_digest(b""), chunk_digest(numbered(1000))]
    return {
        "token_bytes": tokens.hex(),
        "prompt_digest": prompt_digest(tokens).hex(),
        "block_hashes": [h.hex() for h in hashes],
        "chunk_digests": [p.hex() for p in parts],
        "root": exchange_root(parts).hex(),
        "key_hash": key_hash(numbered(32)).hex(),
        "request_id": new_request_id(numbered),
        "receipt_id": new_receipt_id(lambda n: numbered(n, 200)),
    }


def keys():
    derived = AttemptKeys.derive(numbered(32), CONTEXT)
    return {
        "info": CONTEXT.info().hex(),
        "secret": numbered(32).hex(),
        "stream": derived.stream.hex(),
        "manifest": derived.manifest.hex(),
        "connection": derived.connection.hex(),
    }


def envelope():
    key = OneTimeKey.from_private_bytes(numbered(32, 1))
    path = HERE / "envelope.json"
    try:
        kept = json.loads(path.read_text())
        parts = (bytes.fromhex(kept[name]) for name in ("encapsulated_key", "ciphertext"))
        if key.open_envelope(Envelope(*parts), CONTEXT) == numbered(32):
            return kept
    except (FileNotFoundError, IntegrityError):
        pass
    sealed = seal_envelope(key.public_bytes, numbered(32), CONTEXT)
    return {
        "private_key": numbered(32, 1).hex(),
        "public_key": key.public_bytes.hex(),
        "secret": numbered(32).hex(),
        "encapsulated_key": sealed.encapsulated_key.hex(),
        "ciphertext": sealed.ciphertext.hex(),
    }


def documents():
    control, worker = SigningKey.from_seed(numbered(32)), SigningKey.from_seed(numbered(32, 32))
    certificate = WorkerCertificate("w1", "eu", worker.public_bytes, NOW_MS, NOW_MS + 1000)
    capability = issue_capability(
        numbered(32, 64), Capability(CONTEXT.request_id, 7, "w1", NOW_MS + 1000, 4)
    )
    return {
        "control_public_key": control.public_bytes.hex(),
        "worker_public_key": worker.public_bytes.hex(),
        "certificate": issue_certificate(control, certificate).hex(),
        "capability_key": numbered(32, 64).hex(),
        "capability": capability.hex(),
        "proof": connection_proof(numbered(32, 9), numbered(32, 5), capability).hex(),
    }


def channel():
    """Both directions of one connection, frame by frame."""
    exchange = recorder().make_exchange()
    server, client = ServerChannel(numbered(32, 5)), ClientChannel(numbered(60), numbered(32, 9))
    greeting = server.greeting()
    client.receive(greeting)
    authentication = client.data_to_send()
    server.receive(authentication)
    ready = server.ready()
    client.receive(ready)
    client.pull(0, 6)
    client.pull(1 << 20, 1)
    client.goodbye()
    chunk = exchange.chunks[0]
    prefix = server.chunk_prefix(chunk.header, len(chunk.ciphertext))
    return {
        "to_client": {
            "hello": greeting.hex(),
            "ready": ready.hex(),
            "progress": server.progress(Progress(2048, 1 << 20, 3)).hex(),
            "chunk": (prefix + chunk.ciphertext).hex(),
            "end": server.end(6).hex(),
            "fail": server.fail(StatusCode.WORKER_LOST, "gone").hex(),
        },
        "to_server": {"authenticate": authentication.hex(), "pulls": client.data_to_send().hex()},
        "refuse": server.refuse(StatusCode.TOO_MANY_CONNECTIONS, "5, the limit is 4").hex(),
    }


def codecs():
    """Every codec's number; payloads are frozen for raw alone, in `exchange`."""
    return {code.wire_name: int(code) for code in Codec}


def mixed():
    """An exchange whose tensors have several codecs and error bounds, around raw payloads."""
    made = recorder().make_exchange(coding=recorder().MIXED)
    return {
        "headers": [c.header.encode().hex() for c in made.chunks],
        "digests": [c.digest.hex() for c in made.chunks],
        "sealed_manifest": made.finished.sealed_manifest.hex(),
        "root": made.finished.root.hex(),
    }


def exchange():
    """A whole state of 6 tokens: chunks as sealed, manifest, receipt, and the plain tensors."""
    made = recorder().make_exchange()
    first = made.chunks[0]
    return {
        "chunks": [
            {"header": c.header.encode().hex(), "ciphertext": c.ciphertext.hex()}
            for c in made.chunks
        ],
        "digests": [c.digest.hex() for c in made.chunks],
        "sealed_manifest": made.finished.sealed_manifest.hex(),
        "receipt": made.finished.receipt.hex(),
        "root": made.finished.root.hex(),
        "certificate": made.expected.worker_certificate.hex(),
        "tensors": {
            f"{layer} {kind.name}": a.tobytes().hex() for (layer, kind), a in made.state.items()
        },
        "first_header_sealed_over_zeroes": seal_chunk(
            numbered(32), CONTEXT, first.header, bytes(first.header.payload_bytes)
        ).hex(),
    }


VECTORS = {
    "digests": digests,
    "keys": keys,
    "envelope": envelope,
    "documents": documents,
    "channel": channel,
    "exchange": exchange,
    "codecs": codecs,
    "mixed": mixed,
}


def render(name):
    """The text of one vector file."""
    return json.dumps(VECTORS[name](), indent=1) + "\n"


def main():
    """Write all of them."""
    for name in VECTORS:
        (HERE / f"{name}.json").write_text(render(name))


if __name__ == "__main__":
    main()
