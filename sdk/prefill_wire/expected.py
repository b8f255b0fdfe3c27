"""What a receiver was promised: everything that a manifest and a receipt are held to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prefill_wire.codecs import Codec
from prefill_wire.errors import IdentityError, UnsupportedCodec
from prefill_wire.manifest import StateManifest
from prefill_wire.receipt import UsageReceipt
from prefill_wire.sealing import AttemptContext
from prefill_wire.tensors import StateSchema, TensorKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedState:
    """What was asked for; a manifest that says anything else is refused.

    `allowed_codecs`: what the policy that was asked for allows, by kind of tensor.
    """

    context: AttemptContext
    schema: StateSchema
    token_count: int
    model_fingerprint: bytes
    tokenizer_fingerprint: bytes
    numerics_profile: str
    one_time_key_hash: bytes
    offered_wire_versions: tuple[int, ...]
    offered_codecs: tuple[str, ...]
    codec_policy: str
    allowed_codecs: Mapping[TensorKind, Collection[str]]
    fencing_epoch: int
    worker_id: str
    worker_certificate: bytes
    control_public_key: bytes

    def check_codec(self, kind: TensorKind, code: Codec) -> None:
        """Refuse a codec that was not offered, or that the policy does not allow for this kind."""
        name = code.wire_name
        if name not in self.offered_codecs or name not in self.allowed_codecs.get(kind, ()):
            asked = f"{self.codec_policy} was asked for"
            raise UnsupportedCodec(f"{kind.name} is coded by {name}, {asked}")


def check_identity(
    expected: ExpectedState, manifest: StateManifest, bill: UsageReceipt, now_ms: int
) -> None:
    """Raise `IdentityError` when the documents are of another state than was asked for."""
    context = expected.context
    pairs = {
        "request": (manifest.request_id, context.request_id),
        "attempt": (manifest.attempt, context.attempt),
        "fencing epoch": (manifest.fencing_epoch, expected.fencing_epoch),
        "tenant": (manifest.tenant, context.tenant),
        "worker": (manifest.worker_id, expected.worker_id),
        "one-time key": (manifest.one_time_key_hash, expected.one_time_key_hash),
        "model": (manifest.model_fingerprint, expected.model_fingerprint),
        "tokenizer": (manifest.tokenizer_fingerprint, expected.tokenizer_fingerprint),
        "numerics profile": (manifest.numerics_profile, expected.numerics_profile),
        "prompt digest": (manifest.prompt_digest, context.prompt_digest),
        "token count": (manifest.token_count, expected.token_count),
        "state tokens": (manifest.state_tokens, expected.token_count - 1),
        "offered versions": (manifest.offered_wire_versions, expected.offered_wire_versions),
        "offered codecs": (manifest.offered_codecs, expected.offered_codecs),
        "codec policy": (manifest.codec_policy, expected.codec_policy),
        "receipt": (bill.receipt_id, manifest.receipt_id),
        "receipt's request": (bill.request_id, context.request_id),
        "receipt's attempt": (bill.attempt, context.attempt),
        "receipt's tenant": (bill.tenant, context.tenant),
        "receipt's fencing epoch": (bill.fencing_epoch, expected.fencing_epoch),
        "receipt's model": (bill.model_fingerprint, expected.model_fingerprint),
        "receipt's worker": (bill.worker_id, expected.worker_id),
        "receipt's token count": (bill.token_count, expected.token_count),
        "receipt's root": (bill.root, manifest.root),
    }
    for thing, (got, wanted) in pairs.items():
        if got != wanted:
            raise IdentityError(f"the state is of another {thing} than was asked for")
    if now_ms >= manifest.expires_at_ms:
        raise IdentityError(f"the manifest expired at {manifest.expires_at_ms} ms")
