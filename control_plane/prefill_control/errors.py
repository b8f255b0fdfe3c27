"""The one error root of the control plane, and the total table of its problems (RFC 9457).

A code is stable: clients match on it, never on words. Codes that a gateway also says have the
same names here as in the wire's status table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class ProblemCode(StrEnum):
    """What was wrong; never renamed, never reused."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    VALIDATION_FAILED = "VALIDATION_FAILED"
    INVALID_VALUE = "INVALID_VALUE"
    NOT_AUTHENTICATED = "NOT_AUTHENTICATED"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_EXPIRED = "KEY_EXPIRED"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    TENANT_CLOSED = "TENANT_CLOSED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NAME_TAKEN = "NAME_TAKEN"
    WRONG_STATE = "WRONG_STATE"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    PRECONDITION_FAILED = "PRECONDITION_FAILED"
    PRECONDITION_REQUIRED = "PRECONDITION_REQUIRED"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    NO_DATACENTER = "NO_DATACENTER"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    NO_PRICE = "NO_PRICE"
    RECEIPT_REFUSED = "RECEIPT_REFUSED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Problem:
    """How a code travels, what it is called, and what to do about it."""

    http_status: int
    title: str
    remedy: str


_C = ProblemCode
PROBLEMS: Mapping[ProblemCode, Problem] = MappingProxyType({
    _C.MALFORMED_REQUEST: Problem(400, "Malformed request", "Send well-formed JSON in UTF-8."),
    _C.VALIDATION_FAILED: Problem(422, "Validation failed", "Correct the fields that are named."),
    _C.INVALID_VALUE: Problem(422, "Invalid value",
        "The form is right, the value can't be: see the reason that is named."),
    _C.NOT_AUTHENTICATED: Problem(401, "Not authenticated",
        "Send `Authorization: Bearer` with an API key or a session token."),
    _C.KEY_NOT_FOUND: Problem(401, "API key not found", "Check the API key, or create a new one."),
    _C.KEY_REVOKED: Problem(401, "API key revoked", "Create a new API key."),
    _C.KEY_EXPIRED: Problem(401, "API key expired", "Create a new API key."),
    _C.ADDRESS_NOT_ALLOWED: Problem(403, "Address not allowed",
        "Call from an address of the key's allow-list, or change the list."),
    _C.PERMISSION_DENIED: Problem(403, "Permission denied",
        "Ask an admin of the account for the scope that is named."),
    _C.TENANT_SUSPENDED: Problem(403, "Tenant suspended", "Contact support."),
    _C.TENANT_CLOSED: Problem(403, "Tenant closed", "Open another account."),
    _C.NOT_FOUND: Problem(404, "Not found", "Check the id: it names nothing in this account."),
    _C.METHOD_NOT_ALLOWED: Problem(405, "Method not allowed", "See the Allow header."),
    _C.NAME_TAKEN: Problem(409, "Name taken", "Choose another name."),
    _C.WRONG_STATE: Problem(409, "Wrong state", "Read the object again: its state forbids this."),
    _C.IDEMPOTENCY_CONFLICT: Problem(409, "Idempotency conflict",
        "Use a new Idempotency-Key for a different request."),
    _C.PRECONDITION_FAILED: Problem(412, "Precondition failed",
        "Read the object again and send its new ETag in If-Match."),
    _C.PRECONDITION_REQUIRED: Problem(428, "Precondition required",
        "Send the object's ETag in If-Match."),
    _C.BODY_TOO_LARGE: Problem(413, "Body too large", "Send a smaller body."),
    _C.UNSUPPORTED_MEDIA_TYPE: Problem(415, "Unsupported media type",
        "Send Content-Type: application/json."),
    _C.RATE_LIMITED: Problem(429, "Rate limited", "Wait for the time in Retry-After."),
    _C.QUOTA_EXCEEDED: Problem(429, "Quota exceeded", "Wait for the next period."),
    _C.BUDGET_EXHAUSTED: Problem(402, "Budget exhausted", "Raise the budget."),
    _C.NO_DATACENTER: Problem(422, "No datacenter",
        "Widen the preference or the residency rule that is named."),
    _C.UNKNOWN_MODEL: Problem(404, "Unknown model", "List the models and name one of them."),
    _C.NO_PRICE: Problem(409, "No price", "Ask an operator to set a price for this model."),
    _C.RECEIPT_REFUSED: Problem(422, "Receipt refused",
        "Keep the receipt and report the reason: it is not counted."),
    _C.UNAVAILABLE: Problem(503, "Unavailable", "Try again after the time in Retry-After."),
    _C.INTERNAL: Problem(500, "Internal error", "Report the request id."),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One field that was wrong, and why."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What some problems carry besides their words."""

    retry_after_seconds: int = 0
    faults: tuple[FieldFault, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class ControlError(Exception):
    """A typed refusal; its code decides the HTTP status."""

    def __init__(
        self, code: ProblemCode, message: str, *, remedy: str = "", extras: Extras | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy or PROBLEMS[code].remedy
        self.extras = extras or Extras()

    @property
    def http_status(self) -> int:
        """The HTTP status of the code."""
        return PROBLEMS[self.code].http_status


class SettingsError(ControlError):
    """A `PREFILL_*` variable that is missing or cannot be right; the message names it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(ProblemCode.INTERNAL, message, remedy=remedy)


A_TIME = "a time with its zone, such as 2030-01-31T00:00:00Z"


def not_found(noun: str) -> ControlError:
    """The same words for an absent object and for another tenant's."""
    return ControlError(ProblemCode.NOT_FOUND, f"no such {noun}")


def misshapen(fault: FieldFault) -> ControlError:
    """One field that does not fit its type."""
    words = f"{fault.field}: {fault.reason}"
    return ControlError(ProblemCode.VALIDATION_FAILED, words, extras=Extras(faults=(fault,)))


def invalid(name: str, reason: str) -> ControlError:
    """One field that is wrong in a way that its type cannot say."""
    faults = (FieldFault(name, reason),)
    return ControlError(
        ProblemCode.INVALID_VALUE, f"{name}: {reason}", extras=Extras(faults=faults)
    )
