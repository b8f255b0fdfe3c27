"""How exact a state has to be: the codec policy, and what the SDK holds the cloud to by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prefill_kernels.pack.policy import POLICY_NAMES, StatePart, allowed
from prefill_wire.status import StatusCode
from prefill_wire.tensors import TensorKind

from prefill_cloud.errors import error_for

CodecPolicy = Literal["exact", "near-lossless", "compact", "auto"]
DEFAULT_POLICY: CodecPolicy = "near-lossless"
REPEATABLE: CodecPolicy = "exact"


def check_policy(policy: str | None) -> None:
    """`InvalidRequestError` for a name that is no policy; None is a wish for the default."""
    if policy is not None and policy not in POLICY_NAMES:
        message = f"codec_policy is {policy[:40]!r}, not one of {', '.join(POLICY_NAMES)}."
        raise error_for(StatusCode.MALFORMED_REQUEST, message)


def policy_of_answer(
    asked: CodecPolicy | None, clients: CodecPolicy | None, *, repeatable: bool
) -> CodecPolicy:
    """The policy for one generation: its own, else its client's, else by what is promised.

    An answer that another run must repeat token for token (greedy, or with a seed) needs the very
    state that prefilling here would give; one that is drawn anew does not.
    """
    return asked or clients or (REPEATABLE if repeatable else DEFAULT_POLICY)


def allowed_codecs(policy: CodecPolicy) -> Mapping[TensorKind, tuple[str, ...]]:
    """By kind of tensor, every codec within the policy's promise."""
    return {kind: allowed(policy, StatePart(kind.part)) for kind in TensorKind}
