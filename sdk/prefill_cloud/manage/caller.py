"""Sends calls over httpx: one deadline over all tries, repetitions that do nothing twice."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from prefill_cloud.clock import Clock, Deadline
from prefill_cloud.logs import logger
from prefill_cloud.manage.answers import Answer, strange, value_of
from prefill_cloud.manage.calls import Call
from prefill_cloud.manage.errors import TOO_LATE, UNREACHABLE, ManagementError, UnreachableError
from prefill_cloud.manage.patience import (
    Failure,
    Patience,
    done_before,
    perhaps_done_before,
    wait_seconds,
)

T = TypeVar("T")
MAX_ANSWER_BYTES = 32 << 20
_NOT_RECEIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NETWORK_REMEDY = "Check the URL and the network, and that the control plane runs."
_TLS_REMEDY = "Give the authority that issued the API's certificate as tls_roots."
_LATE_REMEDY = "Try again, or allow more time: whether it was done is unknown."


@dataclass(frozen=True, slots=True)
class Caller:
    """A way to one API with one credential; `http` carries both."""

    http: httpx.AsyncClient
    patience: Patience
    clock: Clock

    async def value(self, call: Call[T], tenant_id: str = "") -> T:
        """The answer of a call, on behalf of a tenant when one is named; ManagementError."""
        deadline = Deadline.after(self.clock, self.patience.deadline_seconds)
        headers = self._headers(call, tenant_id)
        failures, uncertain = 0, False
        while True:
            try:
                return await self._once(call, headers, deadline)
            except _Failed as failed:
                failure = failed.failure
            error = failure.error
            if uncertain and done_before(call, error):
                return None  # type: ignore[return-value]
            failures += 1
            wait = wait_seconds(call, failure, self.patience, failures, self.clock.fraction())
            if wait is None or wait >= deadline.left_seconds():
                raise perhaps_done_before(call, error) if uncertain else error
            uncertain = uncertain or failure.uncertain
            logger(error.request_id).warning(
                "management call is sent again", method=call.method, path=call.path,
                code=error.code, failures=failures, wait_seconds=round(wait, 3),
            )  # fmt: skip
            await self.clock.sleep(wait)

    def _headers(self, call: Call[Any], tenant_id: str) -> dict[str, str]:
        headers = {"accept": "application/json"}
        if call.body:
            headers["content-type"] = "application/json"
        if call.if_match:
            headers["if-match"] = call.if_match
        if call.keyed:
            headers["idempotency-key"] = call.idempotency_key or self.clock.random(16).hex()
        if tenant_id:
            headers["prefill-tenant"] = tenant_id
        return headers

    async def _once(self, call: Call[T], headers: dict[str, str], deadline: Deadline) -> T:
        try:
            async with asyncio.timeout(deadline.left_seconds()):
                answer = await self._send(call, headers)
            now = dt.datetime.fromtimestamp(self.clock.unix_ms() / 1000, dt.UTC)
            return value_of(call, answer, now)
        except TimeoutError:
            seconds = self.patience.deadline_seconds
            late = UnreachableError(
                TOO_LATE, f"no answer within {seconds:g} s", remedy=_LATE_REMEDY
            )
            raise _Failed(Failure(error=late)) from None
        except httpx.HTTPError as error:
            raise _Failed(_lost(error)) from None
        except ManagementError as error:
            raise _Failed(Failure(error=error)) from None

    async def _send(self, call: Call[Any], headers: dict[str, str]) -> Answer:
        sent = self.http.stream(
            call.method,
            call.path,
            params=httpx.QueryParams(call.query) if call.query else None,
            content=call.body or None,
            headers=headers,
        )
        async with sent as response:
            body = bytearray()
            told = {name.lower(): value for name, value in response.headers.items()}
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    answer = Answer(response.status_code, told, b"")
                    raise strange(answer, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            return Answer(response.status_code, told, bytes(body))


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


def _lost(error: httpx.HTTPError) -> Failure:
    """A try without an answer, in words of ours: httpx's errors hold the request's headers."""
    untrusted = _certificate_fault(error)
    words = str(error) or type(error).__name__
    remedy = _TLS_REMEDY if untrusted else _NETWORK_REMEDY
    told = UnreachableError(UNREACHABLE, f"the management API: {words}", remedy=remedy)
    return Failure(error=told, unsent=isinstance(error, _NOT_RECEIVED), hopeless=untrusted)


def _certificate_fault(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
