"""Everything that management raises; `code` is the API's own stable code (RFC 9457 problems).

ManagementError
  NotAuthenticatedError    nobody is known by this credential, or it was revoked or has expired
  ForbiddenError           the credential may not do this, or the account is suspended or closed
  NotFoundError            nothing in this account has that id
  InvalidInputError        the call cannot be right as it stands; `faults` name the fields
  StateConflictError       the object's state, its name or an idempotency key forbids this
  ChangedMeanwhileError    another version than the one named, or none was named
  LimitedError             too many calls, a quota or a budget is used up; `retry_after_seconds`
  UnreachableError         the API does not answer in time; what was asked may have been done
  FaultError               a fault of the platform's
  StrangeAnswerError       the answer is none of this API's

They stand beside `PrefillCloudError`: that tree is about a prompt, decides over a fallback and
speaks the gateway's codes; here nothing falls back, and the codes are the control plane's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

UNREACHABLE, TOO_LATE, STRANGE = "NETWORK_UNAVAILABLE", "DEADLINE_EXCEEDED", "STRANGE_ANSWER"
MALFORMED = "MALFORMED_REQUEST"


class Fault(msgspec.Struct, frozen=True):
    """One field that was wrong, and why."""

    field: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an answer says besides its words."""

    http_status: int = 0
    request_id: str = ""
    retry_after_seconds: float = 0.0
    faults: Sequence[Fault] = ()


class ManagementError(Exception):
    """The root. `code` for machines; `detail` and `remedy` for people; `request_id` to quote.

    `http_status` is 0 when no answer came, `retry_after_seconds` 0 when no time was named.
    """

    def __init__(
        self, code: str, detail: str, *, remedy: str = "", told: Told | None = None
    ) -> None:
        told = told or Told()
        self.code, self.detail = code, detail
        self.remedy = remedy or "Report the request id."
        self.http_status, self.request_id = told.http_status, told.request_id
        self.retry_after_seconds, self.faults = told.retry_after_seconds, tuple(told.faults)
        quoted = f"{code}, {self.request_id}" if self.request_id else code
        self.message = f"{detail} ({quoted})"
        super().__init__(f"{self.message}. {self.remedy}")


class NotAuthenticatedError(ManagementError):
    """Nobody is known by this credential, or it was revoked or has expired."""


class ForbiddenError(ManagementError):
    """The credential may not do this, or the account is suspended or closed."""


class NotFoundError(ManagementError):
    """Nothing in this account has that id."""


class InvalidInputError(ManagementError):
    """The call cannot be right as it stands; `faults` name the fields."""


class StateConflictError(ManagementError):
    """The object's state, its name or an idempotency key forbids this."""


class ChangedMeanwhileError(ManagementError):
    """Another version than the one named, or none was named: read the object again."""


class LimitedError(ManagementError):
    """Too many calls, or a quota or a budget is used up."""


class UnreachableError(ManagementError):
    """The API does not answer in time; what was asked may have been done."""


class FaultError(ManagementError):
    """A fault of the platform's."""


class StrangeAnswerError(ManagementError):
    """The answer is none of this API's: a proxy, another server, a version too far away."""


Kind = type[ManagementError]
EXCEPTIONS: Mapping[str, Kind] = MappingProxyType({
    "MALFORMED_REQUEST": InvalidInputError,
    "VALIDATION_FAILED": InvalidInputError,
    "INVALID_VALUE": InvalidInputError,
    "METHOD_NOT_ALLOWED": InvalidInputError,
    "BODY_TOO_LARGE": InvalidInputError,
    "UNSUPPORTED_MEDIA_TYPE": InvalidInputError,
    "NO_DATACENTER": InvalidInputError,
    "UNKNOWN_MODEL": NotFoundError,
    "NO_PRICE": StateConflictError,
    "RECEIPT_REFUSED": InvalidInputError,
    "NOT_AUTHENTICATED": NotAuthenticatedError,
    "KEY_NOT_FOUND": NotAuthenticatedError,
    "KEY_REVOKED": NotAuthenticatedError,
    "KEY_EXPIRED": NotAuthenticatedError,
    "ADDRESS_NOT_ALLOWED": ForbiddenError,
    "PERMISSION_DENIED": ForbiddenError,
    "TENANT_SUSPENDED": ForbiddenError,
    "TENANT_CLOSED": ForbiddenError,
    "NOT_FOUND": NotFoundError,
    "NAME_TAKEN": StateConflictError,
    "WRONG_STATE": StateConflictError,
    "IDEMPOTENCY_CONFLICT": StateConflictError,
    "PRECONDITION_FAILED": ChangedMeanwhileError,
    "PRECONDITION_REQUIRED": ChangedMeanwhileError,
    "RATE_LIMITED": LimitedError,
    "QUOTA_EXCEEDED": LimitedError,
    "BUDGET_EXHAUSTED": LimitedError,
    "UNAVAILABLE": UnreachableError,
    "INTERNAL": FaultError,
    UNREACHABLE: UnreachableError,
    TOO_LATE: UnreachableError,
    STRANGE: StrangeAnswerError,
})  # fmt: skip
_BY_STATUS: Mapping[int, Kind] = MappingProxyType({
    401: NotAuthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: StateConflictError,
    412: ChangedMeanwhileError,
    428: ChangedMeanwhileError,
    429: LimitedError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
})  # fmt: skip


def kind_of(code: str, http_status: int) -> Kind:
    """The exception of a code; of its HTTP status when a newer API says an unknown one."""
    if code in EXCEPTIONS:
        return EXCEPTIONS[code]
    by_class = FaultError if http_status >= 500 else InvalidInputError
    return _BY_STATUS.get(http_status, by_class)


def invalid(detail: str, remedy: str) -> InvalidInputError:
    """What is refused before anything is sent."""
    return InvalidInputError(MALFORMED, detail, remedy=remedy)
