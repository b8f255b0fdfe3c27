"""What the planner refuses: each error names the field, the number, the limit and the remedy."""

import math

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError


class PlannerError(DataPlaneError):
    """The root: `field` is a path into the plan or profile, `remedy` what to do about it."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(StatusCode.MALFORMED_REQUEST, f"{field}: {problem}", remedy)
        self.field = field
        self.problem = problem


class InvalidInputError(PlannerError):
    """A number or a name of the input cannot be right as it stands."""


class MissingProfilePointError(InvalidInputError):
    """A profile was not measured where the workload needs it."""


class InfeasibleError(PlannerError):
    """The input is sound, but no plan does what it asks.

    `shortfall` says by how much: 0.25 means that the best there is misses by a quarter.
    """

    def __init__(self, field: str, problem: str, remedy: str, shortfall: float = 0.0) -> None:
        super().__init__(field, problem, remedy)
        self.shortfall = shortfall


def require_positive(field: str, value: float, remedy: str) -> None:
    """Raise InvalidInputError unless the value is a finite number above zero."""
    if not 0 < value < math.inf:
        raise InvalidInputError(field, f"{value:g} is not a finite number above 0", remedy)
