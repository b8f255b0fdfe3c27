"""What may go wrong with members."""

from __future__ import annotations

from prefill_control.errors import ControlError, Extras, ProblemCode, not_found


def no_such_member() -> ControlError:
    """Absent, or not the caller's."""
    return not_found("member")


def sign_in_refused() -> ControlError:
    """The same words for a wrong password, an unknown address and an unknown tenant."""
    return ControlError(ProblemCode.NOT_AUTHENTICATED, "tenant, e-mail or password is wrong")


def locked(seconds: int) -> ControlError:
    """Too many wrong passwords."""
    return ControlError(
        ProblemCode.RATE_LIMITED,
        f"too many wrong passwords; try again in {seconds} s",
        extras=Extras(retry_after_seconds=seconds),
    )


def last_owner() -> ControlError:
    """An account always has an owner."""
    return ControlError(ProblemCode.WRONG_STATE, "the last owner stays: name another owner first")
