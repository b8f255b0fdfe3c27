"""What may go wrong with keys."""

from __future__ import annotations

from prefill_control.errors import ControlError, ProblemCode, not_found


def no_such_key() -> ControlError:
    """Absent, or not the caller's."""
    return not_found("API key")


def not_active(key_id: str) -> ControlError:
    """A change of a key that is over."""
    return ControlError(ProblemCode.WRONG_STATE, f"API key {key_id} is revoked or replaced")
