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
  UnavailableError          datacenter, worker or network cannot be reached
  DeadlineExceededError     the time is over
  CancelledRequestError     the caller gave up
  IntegrityFailureError     what came back is not what was asked for, or was changed
  ProtocolError             SDK and cloud do not understand each other
  InternalError             a fault of ours
"""

from __future__ import annotations

from prefill_wire.status import STATUS_TABLE, StatusCode


class PrefillCloudError(Exception):
    """The root: `code` for machines, `message` and `remedy` for people, `request_id` to quote."""

    def __init__(self, code: StatusCode, message: str, request_id: str = "") -> None:
        self.code = code
        self.message = message
        self.request_id = request_id
        self.remedy = STATUS_TABLE[code].remedy
        super().__init__(f"{message} {self.remedy}".strip())


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


def error_for(code: StatusCode, message: str, request_id: str = "") -> PrefillCloudError:
    """The exception that the status table names for a code."""
    by_name = {kind.__name__: kind for kind in PrefillCloudError.__subclasses__()}
    return by_name[STATUS_TABLE[code].exception](code, message, request_id)
