"""ETag and If-Match over the version that every changeable row carries."""

from __future__ import annotations

from prefill_control.errors import ControlError, ProblemCode, invalid


def etag_of(version: int) -> str:
    """The strong ETag of a version."""
    return f'"{version}"'


def expected_version(if_match: str | None) -> int | None:
    """The version that If-Match names; None for `*`; PRECONDITION_REQUIRED without the header."""
    if if_match is None:
        raise ControlError(
            ProblemCode.PRECONDITION_REQUIRED, "this needs If-Match with the object's ETag"
        )
    text = if_match.strip()
    if text == "*":
        return None
    inner = text[1:-1]
    if len(text) > 2 and text[0] == text[-1] == '"' and inner.isascii() and inner.isdecimal():
        return int(inner[:18])
    raise invalid("If-Match", 'an ETag as it was told, like "3", or *')


def check_version(actual: int, expected: int | None) -> None:
    """PRECONDITION_FAILED when the caller has seen another version."""
    if expected is not None and actual != expected:
        raise ControlError(
            ProblemCode.PRECONDITION_FAILED, f"this is version {actual}, not {expected}"
        )
