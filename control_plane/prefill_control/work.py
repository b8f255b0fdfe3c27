"""One unit of work: a transaction, for whom it is done, and by whom. No web in here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from prefill_wire.ids import Random
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.access.scopes import Scope
from prefill_control.errors import ControlError, ProblemCode

__all__ = ["CHANGED", "KEEP", "Actor", "Clock", "Random", "Work"]

KEEP = "keep_on_refusal"
CHANGED = "changed"
Clock = Callable[[], dt.datetime]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: a key, a member or a task of ours."""

    kind: str
    id: str
    tenant_id: str
    scopes: frozenset[Scope]

    @property
    def is_operator(self) -> bool:
        """Whether this is one of the platform's own people or keys."""
        return Scope.PLATFORM in self.scopes

    def need(self, scope: Scope) -> None:
        """PERMISSION_DENIED unless the actor has this scope."""
        if scope not in self.scopes:
            raise ControlError(
                ProblemCode.PERMISSION_DENIED, f"this {self.kind} lacks the scope {scope}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What services are handed. `tenant_id` is set by the server, never read from a body."""

    session: AsyncSession
    actor: Actor
    tenant_id: str
    now: dt.datetime
    random: Random
    request_id: str
    address: str = ""

    def keep_on_refusal(self) -> None:
        """Commit what was written although the answer is a refusal (a failed sign-in counts)."""
        self.session.info[KEEP] = True
