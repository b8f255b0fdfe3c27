"""A body against its handler's type, strictly: "1000" is no integer, a number is no time.

JSON knows one kind of number: 25.0 is the integer 25 there, and so it is here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.types import RouteHandlerType

from prefill_control.errors import ControlError, ProblemCode, misshapen
from prefill_control.web.expectations import fault_of

EXACT = float(1 << 53)  # beyond it a float no longer says which integer is meant


def shaped(handler: RouteHandlerType, body: bytes) -> bytes:
    """The body in one form: MALFORMED_REQUEST when it is no JSON, VALIDATION_FAILED otherwise."""
    field = getattr(handler, "parsed_data_field", None)
    if field is None:
        return body
    if not body:
        raise ControlError(ProblemCode.MALFORMED_REQUEST, "the body is empty")
    try:
        plain = _whole(msgspec.json.decode(body))
        msgspec.convert(plain, field.annotation)
    except msgspec.ValidationError as error:
        raise misshapen(fault_of(error, field.annotation)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ControlError(ProblemCode.MALFORMED_REQUEST, f"no JSON: {error}") from None
    return msgspec.json.encode(plain)


def _whole(value: Any) -> Any:
    """Floats without a fraction as the integers that they are."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < EXACT else value
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value
