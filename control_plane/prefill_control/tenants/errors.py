"""What may go wrong with tenants."""

from __future__ import annotations

from prefill_control.errors import ControlError, ProblemCode, not_found


def no_such_tenant() -> ControlError:
    """Absent, or not the caller's."""
    return not_found("tenant")


def wrong_state(name: str, state: str, wanted: str) -> ControlError:
    """A change that the tenant's state does not allow."""
    return ControlError(ProblemCode.WRONG_STATE, f"tenant {name} is {state}, it can't be {wanted}")
