"""A body against its handler's type, strictly: "1000" is no integer, a number is no time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from litestar.types import RouteHandlerType

from prefill_control.errors import ControlError, Extras, FieldFault, ProblemCode

MARK = " - at `$"


def check_shape(handler: RouteHandlerType, body: bytes) -> None:
    """MALFORMED_REQUEST when it is no JSON, VALIDATION_FAILED when it is not of the type."""
    field = getattr(handler, "parsed_data_field", None)
    if field is None:
        return
    try:
        _decoder(field.annotation).decode(body)
    except msgspec.ValidationError as error:
        raise _fault(str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ControlError(ProblemCode.MALFORMED_REQUEST, f"no JSON: {error}") from None


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _fault(words: str) -> ControlError:
    """msgspec ends its sentence with where it was: `... - at `$.scopes[0]``."""
    reason, _, place = words.partition(MARK)
    name = place.strip("`.") or "body"
    faults = (FieldFault(name, reason),)
    return ControlError(
        ProblemCode.VALIDATION_FAILED, f"{name}: {reason}", extras=Extras(faults=faults)
    )
