"""Everything the SDK raises; the status table says which code raises what.

PrefillCloudError
  AuthenticationError       the API key is unknown, revoked or expired
  PermissionDeniedError     the key may not do this, or the account is suspended
  InvalidRequestError       the request cannot be right as it stands
  ModelMismatchError        the cloud serves another checkpoint under this name
  RateLimitedError          too many requests for now
  QuotaExceededError        the period's tokens are used up
  BudgetExhaustedError      the money set for this is used up
  ConflictError             another request has this idempotency key, or a newer attempt exists
  CapacityError             the cloud has no room for now
    UseLocalError           the cloud advises to prefill locally; nothing was charged
  UnavailableError          datacenter, worker or network cannot be reached
  DeadlineExceededError     the time is over
  CancelledRequestError     the caller gave up
  IntegrityFailureError     what came back is not what was asked for, or was changed
  ProtocolError             SDK and cloud do not understand each other
  InternalError             a fault of ours
"""

from __future__ import annotations

from prefill_wire.errors import WireError
from prefill_wire.status import STATUS_TABLE, Disposition, StatusCode


class PrefillCloudError(Exception):
    """The root: `code` for machines, `message` and `remedy` for people, `request_id` to quote.

    `retry_after_ms` is what the cloud asked for, 0 when it named no time.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        request_id: str = "",
        *,
        remedy: str = "",
        retry_after_ms: int = 0,
    ) -> None:
        self.code = code
        self.message = message
        self.request_id = request_id
        self.remedy = remedy or STATUS_TABLE[code].remedy
        self.retry_after_ms = retry_after_ms
        super().__init__(_told(message, self.remedy))

    @property
    def falls_back(self) -> bool:
        """Whether a session with `fallback="availability"` prefills locally instead of raising."""
        return STATUS_TABLE[self.code].disposition is Disposition.FALLBACK


def _told(message: str, remedy: str) -> str:
    """Both as sentences; a remedy that the message tells already is not told twice."""
    if not remedy or remedy.rstrip(".").lower() in message.lower():
        return message
    return f"{message}{'' if message.endswith(('.', '!', '?')) else '.'} {remedy}"


class AuthenticationError(PrefillCloudError):
    """The API key is unknown, revoked or expired."""


class PermissionDeniedError(PrefillCloudError):
    """The key may not do this, or the account is suspended."""


class InvalidRequestError(PrefillCloudError):
    """The request cannot be right as it stands."""


class ModelMismatchError(PrefillCloudError):
    """The cloud serves another checkpoint, tokenizer or numerics profile under this name."""


class RateLimitedError(PrefillCloudError):
    """Too many requests or tokens for now."""


class QuotaExceededError(PrefillCloudError):
    """The period's tokens are used up."""


class BudgetExhaustedError(PrefillCloudError):
    """The money set for this is used up, or the price is above the caller's cap."""


class ConflictError(PrefillCloudError):
    """Another request has this idempotency key, or a newer attempt exists."""


class CapacityError(PrefillCloudError):
    """The cloud has no room for this request now."""


class UseLocalError(CapacityError):
    """The cloud advises to prefill this prompt locally: `reason` is its word. Nothing is charged.

    It stands in for the outcome `UseLocal` of Open, which is no failure and has no code.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        remedy = "Prefill locally, as a session does."
        message = f"the cloud advises local prefill: {reason}."
        super().__init__(StatusCode.CAPACITY_EXHAUSTED, message, remedy=remedy)


class UnavailableError(PrefillCloudError):
    """Datacenter, worker or network cannot be reached."""


class DeadlineExceededError(PrefillCloudError):
    """The time that the caller gave is over."""


class CancelledRequestError(PrefillCloudError):
    """The caller gave the request up."""


class IntegrityFailureError(PrefillCloudError):
    """What came back is not what was asked for, or was changed on its way."""


class ProtocolError(PrefillCloudError):
    """SDK and cloud do not understand each other."""


class InternalError(PrefillCloudError):
    """A fault of ours."""


def _class_of(code: StatusCode) -> type[PrefillCloudError]:
    by_name = {kind.__name__: kind for kind in PrefillCloudError.__subclasses__()}
    return by_name[STATUS_TABLE[code].exception]


def error_for(code: StatusCode, message: str, request_id: str = "") -> PrefillCloudError:
    """The exception that the status table names for a code."""
    return _class_of(code)(code, message, request_id)


def refusal(
    code: StatusCode, message: str, request_id: str, *, remedy: str, retry_after_ms: int
) -> PrefillCloudError:
    """The exception for a refusal that the cloud explained itself."""
    words = {"remedy": remedy} if remedy else {}
    return _class_of(code)(code, message, request_id, retry_after_ms=retry_after_ms, **words)


def refused_by_wire(error: WireError, request_id: str) -> PrefillCloudError:
    """The exception for what the wire refused of the cloud's bytes.

    A limit or a field that the *cloud* broke is no mistake of the caller's: it counts as an
    integrity failure, from which a session falls back.
    """
    code = error.code
    if STATUS_TABLE[code].disposition is Disposition.ERROR:
        code = StatusCode.INTEGRITY_FAILURE
    return error_for(code, f"{error.message}.", request_id)
