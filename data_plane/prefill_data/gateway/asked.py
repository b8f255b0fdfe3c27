"""What an Open asks: each field within its limits, and what makes two of them the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from blake3 import blake3
from prefill_wire.digests import DIGEST_BYTES
from prefill_wire.limits import BLOCK_SIZE_TOKENS, MAX_TEXT_BYTES, WIRE_VERSION
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

MAX_NAMES = 32
MAX_KEY_CHARACTERS = 128
KEY_BYTES = 32
# The points of low order (libsodium's list): whatever is agreed with them is zeros. X25519 takes a
# public key modulo 2^255 - 19 and without its top bit, so these are all their encodings.
_PRIME = 2**255 - 19
_ORDER_EIGHT = (
    0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
)
LOW_ORDER = frozenset((0, 1, *_ORDER_EIGHT, _PRIME - 1, _PRIME, _PRIME + 1))


def body_digest(asked: prefill_pb2.OpenRequest) -> bytes:
    """What makes two Opens the same request: everything but what its sender measured meanwhile."""
    body = prefill_pb2.OpenRequest()
    body.CopyFrom(asked)
    body.ClearField("deadline_ms")
    body.ClearField("link_bytes_per_second")
    return blake3(body.SerializeToString(deterministic=True)).digest()


def usable_public_key(public: bytes) -> bool:
    """Whether something can be sealed to these 32 bytes: a point of low order is no secret's."""
    return int.from_bytes(public, "little") % 2**255 not in LOW_ORDER


def check_open(asked: prefill_pb2.OpenRequest) -> None:
    """Every field within its limits; the error names the first that is not."""
    if asked.token_count < 2:
        raise DataPlaneError(StatusCode.EMPTY_PROMPT, f"a prompt of {asked.token_count} tokens")
    if WIRE_VERSION not in asked.wire_versions:
        offered = list(asked.wire_versions)[:8]
        raise DataPlaneError(
            StatusCode.UNSUPPORTED_WIRE_VERSION, f"offered {offered}, spoken here is {WIRE_VERSION}"
        )
    fault = next(chain(_number_faults(asked), _name_faults(asked)), None)
    if fault is not None:
        raise DataPlaneError(StatusCode.MALFORMED_REQUEST, fault)


def _number_faults(asked: prefill_pb2.OpenRequest) -> Iterator[str]:
    if len(asked.prompt_digest) != DIGEST_BYTES:
        yield f"prompt_digest has {len(asked.prompt_digest)} bytes, not {DIGEST_BYTES}"
    if len(asked.one_time_public_key) != KEY_BYTES:
        yield f"one_time_public_key has {len(asked.one_time_public_key)} bytes, not {KEY_BYTES}"
    elif not usable_public_key(asked.one_time_public_key):
        yield "one_time_public_key is no usable X25519 key"
    if not 0 < len(asked.idempotency_key) <= MAX_KEY_CHARACTERS:
        length = len(asked.idempotency_key)
        yield f"idempotency_key has {length} characters, not 1 to {MAX_KEY_CHARACTERS}"
    if asked.deadline_ms == 0:
        yield "deadline_ms is 0"
    if asked.block_hashes:
        yield from _block_faults(asked)


def _block_faults(asked: prefill_pb2.OpenRequest) -> Iterator[str]:
    found, blocks = len(asked.block_hashes), asked.token_count // BLOCK_SIZE_TOKENS
    if found != blocks:
        yield f"{found} block_hashes, {asked.token_count} tokens have {blocks}"
    if any(len(block) != DIGEST_BYTES for block in asked.block_hashes):
        yield f"a block hash has not {DIGEST_BYTES} bytes"
    if asked.block_size_tokens != BLOCK_SIZE_TOKENS:
        yield f"block_size_tokens is {asked.block_size_tokens}, not {BLOCK_SIZE_TOKENS}"


def _name_faults(asked: prefill_pb2.OpenRequest) -> Iterator[str]:
    lists = (asked.datacenters, asked.residency, asked.codecs, asked.wire_versions)
    if any(len(names) > MAX_NAMES for names in lists):
        yield f"more than {MAX_NAMES} names in datacenters, residency, codecs or wire_versions"
    names = chain(asked.datacenters, asked.residency, asked.codecs)
    if not all(0 < len(name.encode()) <= MAX_TEXT_BYTES for name in names):
        yield f"a name in datacenters, residency or codecs has not 1 to {MAX_TEXT_BYTES} bytes"
    if len(asked.codec_policy.encode()) > MAX_TEXT_BYTES:
        yield f"codec_policy has more than {MAX_TEXT_BYTES} bytes"
