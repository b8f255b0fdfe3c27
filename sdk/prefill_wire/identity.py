"""Who a model is on the wire: what Open names, what manifests and receipts are held to."""

from __future__ import annotations

from dataclasses import dataclass

from prefill_wire.digests import DIGEST_BYTES
from prefill_wire.errors import WireError
from prefill_wire.limits import MAX_TEXT_BYTES
from prefill_wire.pb import prefill_pb2

Parts = tuple[str, str, str]
PARTS = ("weights", "tokenizer", "numerics profile")
_SHOWN = 16  # characters of a fingerprint that tell two apart


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A served name, two fingerprints of 32 bytes and a numerics profile such as `fp32`."""

    name: str
    fingerprint: bytes
    tokenizer_fingerprint: bytes
    numerics_profile: str

    @property
    def parts(self) -> Parts:
        """What has to be equal besides the name: fingerprints in hex, called as in `PARTS`."""
        return self.fingerprint.hex(), self.tokenizer_fingerprint.hex(), self.numerics_profile

    def message(self) -> prefill_pb2.ModelIdentity:
        """The identity as Open carries it."""
        return prefill_pb2.ModelIdentity(
            name=self.name,
            fingerprint=self.fingerprint,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            numerics_profile=self.numerics_profile,
        )

    @classmethod
    def from_message(cls, message: prefill_pb2.ModelIdentity) -> ModelIdentity:
        """The identity of a message; `WireError` names the field that is off."""
        for thing, text in (("model", message.name), ("profile", message.numerics_profile)):
            if not 0 < len(text.encode()) <= MAX_TEXT_BYTES:
                raise WireError(f"the {thing}'s name has {len(text.encode())} bytes, not 1 to 256")
        fingerprints = {"model": message.fingerprint, "tokenizer": message.tokenizer_fingerprint}
        for thing, value in fingerprints.items():
            if len(value) != DIGEST_BYTES:
                raise WireError(f"the {thing} fingerprint has {len(value)} bytes, not 32")
        return cls(
            message.name,
            bytes(message.fingerprint),
            bytes(message.tokenizer_fingerprint),
            message.numerics_profile,
        )


def difference(one: Parts, other: Parts) -> tuple[str, str, str] | None:
    """The first part that is not the same, with the beginning of both; None when all are."""
    for name, mine, theirs in zip(PARTS, one, other, strict=True):
        if mine != theirs:
            return name, mine[:_SHOWN], theirs[:_SHOWN]
    return None
