"""Every failure as an RFC 9457 problem: a stable code, words, a remedy, and the request id."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from asyncpg.exceptions import (
    CharacterNotInRepertoireError,
    DeadlockDetectedError,
    LockNotAvailableError,
    QueryCanceledError,
    TooManyConnectionsError,
    UntranslatableCharacterError,
)
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers.base import BaseRouteHandler
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from prefill_control.errors import PROBLEMS, ControlError, Extras, FieldFault, ProblemCode
from prefill_control.web.expectations import UNKNOWN, wanted_of
from prefill_control.web.ids import request_id_of
from prefill_control.web.methods import allowed_methods

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
BUSY = (
    DeadlockDetectedError,
    LockNotAvailableError,
    QueryCanceledError,
    TooManyConnectionsError,
)
BAD_TEXT = (CharacterNotInRepertoireError, UntranslatableCharacterError)
BY_STATUS = {
    400: ProblemCode.MALFORMED_REQUEST,
    401: ProblemCode.NOT_AUTHENTICATED,
    403: ProblemCode.PERMISSION_DENIED,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
    413: ProblemCode.BODY_TOO_LARGE,
    415: ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    429: ProblemCode.RATE_LIMITED,
}


class Fault(msgspec.Struct, frozen=True):
    """One field that was wrong."""

    field: str
    reason: str


class ProblemDocument(msgspec.Struct, frozen=True):
    """The body of every refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str
    request_id: str
    faults: list[Fault] = []


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Litestar's handler for every exception."""
    problem = as_control_error(error, request.scope.get("route_handler"))
    request_id = request_id_of(request.scope)
    if problem.code is ProblemCode.INTERNAL:
        log.error("internal error", request_id=request_id, exc_info=error)
        request.app.state.failures.labels("internal").inc()
    elif problem.code is ProblemCode.UNAVAILABLE:
        log.warning("unavailable", request_id=request_id, reason=repr(error)[:300])
        request.app.state.failures.labels("unavailable").inc()
    headers = {n: v for n, v in problem.extras.headers.items() if n.lower() != "allow"}
    if problem.extras.retry_after_seconds:
        headers["Retry-After"] = str(problem.extras.retry_after_seconds)
    if problem.code is ProblemCode.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request.app, request.scope["path"]))
    if problem.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        document_of(problem, request_id),
        status_code=problem.http_status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def document_of(problem: ControlError, request_id: str) -> ProblemDocument:
    """The body that tells of a problem."""
    entry = PROBLEMS[problem.code]
    return ProblemDocument(
        type=f"/problems/{problem.code.lower().replace('_', '-')}",
        title=entry.title,
        status=entry.http_status,
        code=problem.code,
        detail=problem.message,
        remedy=problem.remedy,
        request_id=request_id,
        faults=[Fault(fault.field, fault.reason) for fault in problem.extras.faults],
    )


def as_control_error(error: Exception, handler: object = None) -> ControlError:
    """Any exception as one of ours; what nobody expected is INTERNAL and says nothing.

    `handler`: whose parameters were judged.
    """
    if isinstance(error, ControlError):
        return error
    if isinstance(error, ValidationException):
        return _validation(error, handler)
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, StaleDataError):
        return ControlError(ProblemCode.PRECONDITION_FAILED, "somebody else changed it meanwhile")
    if isinstance(error, OSError | PoolTimeout | InterfaceError | OperationalError):
        return _unavailable()
    if isinstance(error, DBAPIError):
        return _of_database(error)
    return ControlError(ProblemCode.INTERNAL, "a fault of ours")


def _validation(error: ValidationException, handler: object) -> ControlError:
    extra = error.extra if isinstance(error.extra, list) else []
    faults = tuple(
        _of_parameter(str(entry.get("key", "")), handler)
        for entry in extra
        if isinstance(entry, dict)
    )
    named = "; ".join(f"{fault.field}: {fault.reason}" for fault in faults[:5])
    return ControlError(
        ProblemCode.VALIDATION_FAILED, named or "the request", extras=Extras(faults=faults)
    )


def _of_parameter(name: str, handler: object) -> FieldFault:
    """The parameter by the name that callers know, and what it had to be."""
    if not isinstance(handler, BaseRouteHandler):
        return FieldFault(name, f"expected {UNKNOWN}")
    models = [handler.signature_model]
    models += [provided.signature_model for provided in handler.resolve_dependencies().values()]
    wanted = (wanted_of(model, name) for model in models)
    field = handler.parsed_fn_signature.parameters.get(name)
    shown = getattr(field and field.kwarg_definition, "name", None) or name
    return FieldFault(shown, next(filter(None, wanted), f"expected {UNKNOWN}"))


def _of_framework(error: HTTPException) -> ControlError:
    if error.status_code >= 500:
        return ControlError(ProblemCode.INTERNAL, "a fault of ours")
    code = BY_STATUS.get(error.status_code, ProblemCode.MALFORMED_REQUEST)
    words = {ProblemCode.NOT_FOUND: "no such resource"}.get(code, error.detail)
    return ControlError(code, words, extras=Extras(headers=dict(error.headers or {})))


def _unavailable() -> ControlError:
    return ControlError(
        ProblemCode.UNAVAILABLE,
        "a service that this needs does not answer now",
        extras=Extras(retry_after_seconds=RETRY_SECONDS),
    )


def _of_database(error: DBAPIError) -> ControlError:
    cause = error.orig.__cause__ if error.orig is not None else None
    if error.connection_invalidated or isinstance(cause, (*BUSY, OSError)):
        return _unavailable()
    if isinstance(cause, BAD_TEXT):
        return ControlError(ProblemCode.INVALID_VALUE, "a text holds a character that none may")
    if isinstance(error, IntegrityError) and getattr(cause, "sqlstate", "") == "23505":
        return ControlError(ProblemCode.NAME_TAKEN, "something else has this name already")
    if isinstance(error, IntegrityError) and getattr(cause, "sqlstate", "") == "23503":
        return ControlError(ProblemCode.NOT_FOUND, "something that is named does not exist")
    return ControlError(ProblemCode.INTERNAL, "a fault of ours")
