"""The one table of outcomes: code <-> gRPC status <-> HTTP status <-> SDK exception.

A code says what happened; its entry says how it travels, which exception a caller sees, whether
trying again can help, whether the SDK may prefill locally instead, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType


class StatusCode(StrEnum):
    """What happened to a request; stable names, never reused."""

    OK = "OK"
    EMPTY_PROMPT = "EMPTY_PROMPT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    TOKEN_OUT_OF_RANGE = "TOKEN_OUT_OF_RANGE"  # noqa: S105 (a token of a prompt)
    PROMPT_MISMATCH = "PROMPT_MISMATCH"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    UNSUPPORTED_WIRE_VERSION = "UNSUPPORTED_WIRE_VERSION"
    UNSUPPORTED_CODEC = "UNSUPPORTED_CODEC"
    UNSUPPORTED_TENSOR_KIND = "UNSUPPORTED_TENSOR_KIND"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    MODEL_MISMATCH = "MODEL_MISMATCH"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_EXPIRED = "KEY_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    PRICE_CAP_EXCEEDED = "PRICE_CAP_EXCEEDED"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    ATTEMPT_FENCED = "ATTEMPT_FENCED"
    ATTEMPT_NOT_FOUND = "ATTEMPT_NOT_FOUND"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    CAPABILITY_INVALID = "CAPABILITY_INVALID"
    CAPABILITY_EXPIRED = "CAPABILITY_EXPIRED"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    CAPACITY_EXHAUSTED = "CAPACITY_EXHAUSTED"
    NO_DATACENTER = "NO_DATACENTER"
    WORKER_LOST = "WORKER_LOST"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    INTEGRITY_FAILURE = "INTEGRITY_FAILURE"
    IDENTITY_FAILURE = "IDENTITY_FAILURE"
    ROOT_MISMATCH = "ROOT_MISMATCH"
    RECEIPT_REFUSED = "RECEIPT_REFUSED"
    STORAGE_EXHAUSTED = "STORAGE_EXHAUSTED"
    NETWORK_UNAVAILABLE = "NETWORK_UNAVAILABLE"
    INTERNAL = "INTERNAL"


class Disposition(Enum):
    """What an SDK with `fallback="availability"` does: raise, or prefill locally and say why."""

    ERROR = "error"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """One row of the table."""

    code: StatusCode
    grpc_status: str
    http_status: int
    exception: str
    disposition: Disposition
    retryable: bool
    remedy: str


_E, _F = Disposition.ERROR, Disposition.FALLBACK
_S = StatusCode
# (code, gRPC, HTTP, SDK exception, disposition, retryable, remedy)
_ROWS: tuple[tuple[StatusCode, str, int, str, Disposition, bool, str], ...] = (
    (_S.OK, "OK", 200, "", _E, False, ""),
    (_S.EMPTY_PROMPT, "INVALID_ARGUMENT", 400, "InvalidRequestError", _E, False,
     "Send at least 2 tokens: the state covers all but the last one."),
    (_S.PROMPT_TOO_LONG, "INVALID_ARGUMENT", 400, "InvalidRequestError", _E, False,
     "Shorten the prompt to the model's context."),
    (_S.TOKEN_OUT_OF_RANGE, "INVALID_ARGUMENT", 400, "InvalidRequestError", _E, False,
     "Tokenize with the model's own tokenizer."),
    (_S.PROMPT_MISMATCH, "INVALID_ARGUMENT", 400, "InvalidRequestError", _E, False,
     "Send exactly the tokens whose count and digest were opened."),
    (_S.MALFORMED_REQUEST, "INVALID_ARGUMENT", 400, "InvalidRequestError", _E, False,
     "Correct the field that the message names."),
    (_S.UNSUPPORTED_WIRE_VERSION, "FAILED_PRECONDITION", 400, "ProtocolError", _F, False,
     "Upgrade the older side: SDK and gateway share no protocol version."),
    (_S.UNSUPPORTED_CODEC, "FAILED_PRECONDITION", 400, "ProtocolError", _F, False,
     "Offer a codec that the worker lists, or upgrade the SDK."),
    (_S.UNSUPPORTED_TENSOR_KIND, "FAILED_PRECONDITION", 400, "ProtocolError", _F, False,
     "Upgrade the SDK: the model's state has a kind of tensor it does not know."),
    (_S.UNKNOWN_MODEL, "NOT_FOUND", 404, "InvalidRequestError", _E, False,
     "List the models that are served and ask for one of them."),
    (_S.MODEL_MISMATCH, "FAILED_PRECONDITION", 409, "ModelMismatchError", _F, False,
     "Use the checkpoint and numerics profile that the cloud serves under this name."),
    (_S.KEY_NOT_FOUND, "UNAUTHENTICATED", 401, "AuthenticationError", _E, False,
     "Check the API key, or create a new one."),
    (_S.KEY_REVOKED, "UNAUTHENTICATED", 401, "AuthenticationError", _E, False,
     "Create a new API key: this one was revoked."),
    (_S.KEY_EXPIRED, "UNAUTHENTICATED", 401, "AuthenticationError", _E, False,
     "Create a new API key: this one has expired."),
    (_S.PERMISSION_DENIED, "PERMISSION_DENIED", 403, "PermissionDeniedError", _E, False,
     "Ask an admin of the account for a key with the scope that is named."),
    (_S.TENANT_SUSPENDED, "PERMISSION_DENIED", 403, "PermissionDeniedError", _E, False,
     "Contact support: the account is suspended."),
    (_S.RATE_LIMITED, "RESOURCE_EXHAUSTED", 429, "RateLimitedError", _F, True,
     "Wait for the time that is named, or raise the rate limit."),
    (_S.QUOTA_EXCEEDED, "RESOURCE_EXHAUSTED", 429, "QuotaExceededError", _F, False,
     "Wait for the next period, or raise the quota."),
    (_S.BUDGET_EXHAUSTED, "RESOURCE_EXHAUSTED", 402, "BudgetExhaustedError", _F, False,
     "Raise the budget, or wait for the next period."),
    (_S.PRICE_CAP_EXCEEDED, "FAILED_PRECONDITION", 402, "BudgetExhaustedError", _F, False,
     "Raise max_price_micros, or prefill locally."),
    (_S.IDEMPOTENCY_CONFLICT, "ALREADY_EXISTS", 409, "ConflictError", _E, False,
     "Use a new idempotency key for a different request."),
    (_S.ATTEMPT_FENCED, "ABORTED", 409, "ConflictError", _F, True,
     "Open again: a newer attempt has replaced this one."),
    (_S.ATTEMPT_NOT_FOUND, "NOT_FOUND", 404, "UnavailableError", _F, True,
     "Open again: the gateway no longer holds this attempt."),
    (_S.LEASE_EXPIRED, "FAILED_PRECONDITION", 410, "UnavailableError", _F, True,
     "Open again, and claim before the lease ends."),
    (_S.CAPABILITY_INVALID, "PERMISSION_DENIED", 403, "ProtocolError", _F, False,
     "Open again: the data channel refused this capability."),
    (_S.CAPABILITY_EXPIRED, "PERMISSION_DENIED", 403, "ProtocolError", _F, True,
     "Open again: the capability's time is over."),
    (_S.TOO_MANY_CONNECTIONS, "RESOURCE_EXHAUSTED", 429, "CapacityError", _F, True,
     "Use no more connections than the capability allows."),
    (_S.CAPACITY_EXHAUSTED, "RESOURCE_EXHAUSTED", 503, "CapacityError", _F, True,
     "Try again shortly, or name another datacenter."),
    (_S.NO_DATACENTER, "UNAVAILABLE", 503, "UnavailableError", _F, True,
     "Widen the datacenter wish or the residency rule, or try again later."),
    (_S.WORKER_LOST, "UNAVAILABLE", 503, "UnavailableError", _F, True,
     "Try again: the worker of this attempt is gone."),
    (_S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 504, "DeadlineExceededError", _F, False,
     "Allow more time, or prefill locally."),
    (_S.CANCELLED, "CANCELLED", 499, "CancelledRequestError", _E, False,
     "Nothing to do: the request was cancelled by its caller."),
    (_S.INTEGRITY_FAILURE, "DATA_LOSS", 502, "IntegrityFailureError", _F, False,
     "Report the request id: the state was changed on its way."),
    (_S.IDENTITY_FAILURE, "DATA_LOSS", 502, "IntegrityFailureError", _F, False,
     "Report the request id: the state belongs to another request."),
    (_S.ROOT_MISMATCH, "FAILED_PRECONDITION", 409, "IntegrityFailureError", _F, False,
     "Report the request id: the claimed chunks are not the ones that were sealed."),
    (_S.RECEIPT_REFUSED, "DATA_LOSS", 502, "IntegrityFailureError", _F, False,
     "Report the request id: the worker's receipt exceeds what was admitted."),
    (_S.STORAGE_EXHAUSTED, "RESOURCE_EXHAUSTED", 507, "CapacityError", _F, True,
     "Try again later: the cloud's disk is full; operators: free space."),
    (_S.NETWORK_UNAVAILABLE, "UNAVAILABLE", 503, "UnavailableError", _F, True,
     "Check the endpoint and the network, then try again."),
    (_S.INTERNAL, "INTERNAL", 500, "InternalError", _F, True,
     "Report the request id: this is a fault of ours."),
)  # fmt: skip

STATUS_TABLE: Mapping[StatusCode, StatusEntry] = MappingProxyType(
    {row[0]: StatusEntry(*row) for row in _ROWS}
)
