"""A number that an option or argument cannot take, in our words: name, value, range, remedy.

The library that parses the command line says what is wrong with a value, but neither the value nor
the whole range.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from prefill_stack.errors import StackError

MOST_SHOWN_CHARACTERS = 40


class WrongNumber(StackError):
    """A number that is none, or out of its range."""

    exit_code = 2  # wrong usage


class Commands(TyperGroup):
    """The root of all commands: it words what any of them refuses."""

    def invoke(self, ctx: Any) -> Any:
        """As the library's own; raises WrongNumber for a value of an option that takes numbers."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            known = wrong_number(error)
            if known is None:
                raise
            raise known from None


def wrong_number(error: typer.BadParameter) -> WrongNumber | None:
    """The refusal in our words; None when it is not about the value of a number."""
    found = getattr(error.__cause__, "errors", None)
    if error.param is None or found is None:
        return None
    takes = error.param.type_descriptor
    if takes.annotation not in (int, float):
        return None
    name = max(error.param.opts, key=len)
    given = str(found()[0]["input"])[:MOST_SHOWN_CHARACTERS]
    kind = "whole number" if takes.annotation is int else "number"
    wanted = kind + ranged(takes.parameter_info.min, takes.parameter_info.max)
    command = error.ctx.command_path if error.ctx is not None else "prefill-cloud"
    return WrongNumber(
        f"{name} {given!r} is no {wanted}", f"give a {wanted}; `{command} --help` tells more"
    )


def ranged(least: float | None, most: float | None) -> str:
    """The bounds of a number, with a blank before them; empty for none."""
    if least is not None and most is not None:
        return f" from {_plain(least)} to {_plain(most)}"
    if least is not None:
        return f" from {_plain(least)} on"
    return f" up to {_plain(most)}" if most is not None else ""


def _plain(bound: float) -> str:
    return f"{int(bound) if bound == int(bound) else bound:,}"
