"""Answers of the API as values or exceptions; what is no answer of this API is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec

from prefill_cloud.manage.calls import Call
from prefill_cloud.manage.errors import (
    STRANGE,
    UNREACHABLE,
    Fault,
    ManagementError,
    StrangeAnswerError,
    Told,
    UnreachableError,
    kind_of,
)
from prefill_cloud.manage.secret import decode_secret

T = TypeVar("T")
MOST_WAIT_SECONDS = 86_400.0
GATEWAY_STATUS = frozenset({502, 503, 504})
UNKNOWN_REMEDY = "Check that the URL is the management API's, and that no proxy answers for it."


class Problem(msgspec.Struct, frozen=True):
    """An RFC 9457 problem, as far as it is told."""

    code: str
    detail: str = ""
    remedy: str = ""
    request_id: str = ""
    title: str = ""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """The id to quote; empty when the answer names none."""
        return self.headers.get("x-request-id", "")[:80]


def value_of(call: Call[T], answer: Answer, now: dt.datetime) -> T:
    """The typed result; the exception of its problem otherwise."""
    if answer.status >= 400:
        raise problem_of(answer, now)
    if not 200 <= answer.status < 300:
        raise strange(answer, f"the answer has status {answer.status}")
    if call.answer is type(None):
        return None
    try:
        return msgspec.json.decode(answer.body, type=call.answer, dec_hook=decode_secret)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise strange(answer, f"{call.method} {call.path}: {error}") from None


def problem_of(answer: Answer, now: dt.datetime) -> ManagementError:
    """The exception of a refusal."""
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return unexplained(answer, now)
    told = Told(
        http_status=answer.status,
        request_id=problem.request_id or answer.request_id,
        retry_after_seconds=retry_after_seconds(answer.headers.get("retry-after", ""), now),
        faults=problem.faults,
    )
    words = problem.detail or problem.title or "the API refuses this"
    kind = kind_of(problem.code, answer.status)
    return kind(problem.code, words, remedy=problem.remedy, told=told)


def unexplained(answer: Answer, now: dt.datetime) -> ManagementError:
    """A refusal that is no problem document: something before the API, or another server."""
    wait = retry_after_seconds(answer.headers.get("retry-after", ""), now)
    words = f"status {answer.status} without a problem document"
    if answer.status not in GATEWAY_STATUS:
        return strange(answer, words)
    told = Told(http_status=answer.status, request_id=answer.request_id, retry_after_seconds=wait)
    return UnreachableError(UNREACHABLE, words, remedy=UNKNOWN_REMEDY, told=told)


def strange(answer: Answer, detail: str) -> StrangeAnswerError:
    """The exception of an answer that this API would not give."""
    told = Told(http_status=answer.status, request_id=answer.request_id)
    return StrangeAnswerError(STRANGE, detail, remedy=UNKNOWN_REMEDY, told=told)


def retry_after_seconds(text: str, now: dt.datetime) -> float:
    """Retry-After as seconds from now: it is a number or an HTTP date; 0 when it is neither."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:6]), MOST_WAIT_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    aware = at if at.tzinfo else at.replace(tzinfo=dt.UTC)
    return min(max(0.0, (aware - now).total_seconds()), MOST_WAIT_SECONDS)
