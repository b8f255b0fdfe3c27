"""How long a call is tried and when it is sent again: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefill_cloud.clock import Backoff
from prefill_cloud.manage.calls import Call
from prefill_cloud.manage.errors import (
    TOO_LATE,
    ChangedMeanwhileError,
    ManagementError,
    NotFoundError,
    Told,
)

REPEATED_STATUS = frozenset({500, 502, 503, 504})
_OWN_CHANGE = "Read the object again: an earlier try of this call may have changed it."
REFUSED_AT_THE_DOOR = frozenset({"RATE_LIMITED"})  # before anything was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`deadline_seconds` bounds a call with all its tries, `try_seconds` a silence within one."""

    deadline_seconds: float = 30.0
    try_seconds: float = 10.0
    tries: int = 6
    backoff: Backoff = field(default_factory=lambda: Backoff(0.1, 2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One try that failed. `unsent`: the API surely never received it."""

    error: ManagementError
    unsent: bool = False
    hopeless: bool = False

    @property
    def uncertain(self) -> bool:
        """Whether the call may have been done although no answer says so."""
        lost = self.error.http_status == 0 and not self.unsent
        return lost or self.error.http_status in REPEATED_STATUS


def wait_seconds(
    call: Call[Any], failure: Failure, patience: Patience, failures: int, fraction: float
) -> float | None:
    """How long to wait before the next try; None: the failure is final.

    `failures` in a row so far, 1 or more; `fraction` in [0, 1) is chance. Retry-After is kept.
    """
    error = failure.error
    transient = error.http_status in REPEATED_STATUS or error.code in REFUSED_AT_THE_DOOR
    again = failure.unsent or transient or (error.http_status == 0 and error.code != TOO_LATE)
    if failure.hopeless or not again or failures >= patience.tries:
        return None
    if call.once and failure.uncertain:
        return None
    return max(patience.backoff.wait_seconds(failures, fraction), error.retry_after_seconds)


def done_before(call: Call[Any], error: ManagementError) -> bool:
    """Whether an error says that an earlier try, whose answer was lost, did it already."""
    return call.method == "DELETE" and isinstance(error, NotFoundError)


def perhaps_done_before(call: Call[Any], error: ManagementError) -> ManagementError:
    """The same error; with another remedy when an earlier try may have been the other change."""
    if call.if_match and isinstance(error, ChangedMeanwhileError):
        told = Told(http_status=error.http_status, request_id=error.request_id)
        return ChangedMeanwhileError(error.code, error.detail, remedy=_OWN_CHANGE, told=told)
    return error
