"""What a caller asks for, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from prefill_kernels.pack.policy import AUTO, decodable
from prefill_wire.digests import block_hashes, prompt_digest, token_bytes
from prefill_wire.identity import ModelIdentity
from prefill_wire.limits import BLOCK_SIZE_TOKENS, MAX_PROMPT_TOKENS, SUPPORTED_WIRE_VERSIONS
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode
from prefill_wire.tensors import StateSchema, TensorKind

from prefill_cloud.errors import error_for
from prefill_cloud.quality import DEFAULT_POLICY, CodecPolicy, check_policy

Buffers = Mapping[tuple[int, TensorKind], np.ndarray]
_MAX_KEY_CHARACTERS = 128
_MAX_ID = 2**32 - 1


def token_array(tokens: Sequence[int] | np.ndarray, least: int = 2) -> np.ndarray:
    """Token ids as `[N]` uint32; `InvalidRequestError` names what is wrong, never an id."""
    given = np.asarray(tokens)
    if given.ndim != 1:
        message = f"a prompt of {given.ndim} dimensions; token ids are a flat sequence."
        raise error_for(StatusCode.MALFORMED_REQUEST, message)
    if len(given) < least:
        raise error_for(StatusCode.EMPTY_PROMPT, f"the prompt has {len(given)} tokens.")
    if len(given) > MAX_PROMPT_TOKENS:
        message = f"the prompt has {len(given)} tokens, the limit is {MAX_PROMPT_TOKENS}."
        raise error_for(StatusCode.PROMPT_TOO_LONG, message)
    if given.dtype.kind not in "iu":
        raise error_for(StatusCode.MALFORMED_REQUEST, "token ids are whole numbers.")
    wrong = np.flatnonzero((given < 0) | (given > _MAX_ID))
    if len(wrong):
        message = f"the id at position {wrong[0]} is not from 0 to {_MAX_ID}."
        raise error_for(StatusCode.TOKEN_OUT_OF_RANGE, message)
    return given.astype("<u4")


def names(thing: str, given: Sequence[str]) -> tuple[str, ...]:
    """Names as a tuple; a text alone is refused, since it would be taken letter by letter."""
    if isinstance(given, str) or not all(isinstance(name, str) and name for name in given):
        raise error_for(StatusCode.MALFORMED_REQUEST, f"{thing} is a list of names.")
    return tuple(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRequest:
    """One prompt `[N]` uint32 for one model; the state that comes back covers N-1 tokens."""

    tokens: np.ndarray = field(repr=False)
    identity: ModelIdentity
    schema: StateSchema = field(repr=False)
    datacenters: tuple[str, ...] = ()
    residency: tuple[str, ...] = ()
    max_price_micros: int = 0
    local_prefix_tokens: int = 0
    idempotency_key: str
    codec_policy: CodecPolicy = DEFAULT_POLICY
    buffers: Buffers | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_policy(self.codec_policy)
        length = len(self.idempotency_key)
        if not 1 <= length <= _MAX_KEY_CHARACTERS:
            message = f"idempotency_key has {length} characters, not 1 to {_MAX_KEY_CHARACTERS}."
            raise error_for(StatusCode.MALFORMED_REQUEST, message)
        if self.max_price_micros < 0:
            message = f"max_price_micros is {self.max_price_micros}; 0 means no cap."
            raise error_for(StatusCode.MALFORMED_REQUEST, message)

    @property
    def token_count(self) -> int:
        """N."""
        return len(self.tokens)

    def digest(self) -> bytes:
        """The prompt's digest, which binds keys, chunks, manifest and receipt to it."""
        return prompt_digest(token_bytes(self.tokens))

    @property
    def offered_codecs(self) -> tuple[str, ...]:
        """Every codec that its policy allows for any part of a state."""
        return decodable(self.codec_policy)

    def open_message(
        self, *, one_time_public_key: bytes, link_bytes_per_second: int, deadline_ms: int
    ) -> prefill_pb2.OpenRequest:
        """Open: counts, identities and wishes, never a token; the link is told for `auto` alone."""
        data = token_bytes(self.tokens)
        return prefill_pb2.OpenRequest(
            wire_versions=SUPPORTED_WIRE_VERSIONS,
            codecs=self.offered_codecs,
            codec_policy=self.codec_policy,
            link_bytes_per_second=link_bytes_per_second if self.codec_policy == AUTO else 0,
            model=self.identity.message(),
            token_count=self.token_count,
            prompt_digest=prompt_digest(data),
            block_size_tokens=BLOCK_SIZE_TOKENS,
            block_hashes=block_hashes(data, BLOCK_SIZE_TOKENS),
            local_prefix_tokens=self.local_prefix_tokens,
            datacenters=self.datacenters,
            residency=self.residency,
            deadline_ms=deadline_ms,
            idempotency_key=self.idempotency_key,
            one_time_public_key=one_time_public_key,
            max_price_micros=self.max_price_micros,
        )
