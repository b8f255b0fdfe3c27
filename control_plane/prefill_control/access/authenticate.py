"""Who a bearer secret belongs to: looked up by its proof, remembered for a moment."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from prefill_control.access import repository
from prefill_control.access.scopes import ROLE_SCOPES, Role, Scope, expand
from prefill_control.access.secrets import PREFIXES, Pepper, well_formed
from prefill_control.db import Database
from prefill_control.errors import ControlError, ProblemCode
from prefill_control.keys.status import PROBLEM_OF, KeyStatus, KnownKey, key_status
from prefill_control.tenants.models import PLATFORM_TENANT
from prefill_control.work import Actor

MAX_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """What a proof led to."""

    actor: Actor
    key: KnownKey


@dataclass(frozen=True, slots=True)
class _Remembered:
    found: Found | None
    until: float


class Authenticator:
    """Checks bearer secrets. A change elsewhere is seen after `remember_seconds` at the latest."""

    def __init__(
        self,
        database: Database,
        pepper: Pepper,
        monotonic: Callable[[], float],
        remember_seconds: float,
    ) -> None:
        self._database, self._pepper = database, pepper
        self._monotonic, self._remember_seconds = monotonic, remember_seconds
        self._known: OrderedDict[str, _Remembered] = OrderedDict()

    async def check(
        self, secret: str, now: dt.datetime, address: str
    ) -> tuple[KeyStatus, Found | None]:
        """The status of a secret, and whose it is when it is known at all."""
        if not any(well_formed(secret, prefix) for prefix in PREFIXES):
            return KeyStatus.NOT_FOUND, None
        found = await self._find(self._pepper.proof(secret))
        return key_status(found.key if found else None, now, address), found

    async def actor(self, authorization: str, now: dt.datetime, address: str) -> Actor:
        """The caller, or the typed refusal of its KeyStatus."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ControlError(ProblemCode.NOT_AUTHENTICATED, "no bearer secret was sent")
        status, found = await self.check(secret.strip(), now, address)
        if found is None or status is not KeyStatus.VALID:
            words = status.lower().replace("_", " ")
            raise ControlError(PROBLEM_OF.get(status, ProblemCode.KEY_NOT_FOUND), f"key: {words}")
        return found.actor

    def forget(self) -> None:
        """Drop everything remembered: a key, a member or a tenant was changed here."""
        self._known.clear()

    async def _find(self, proof: str) -> Found | None:
        known = self._known.get(proof)
        if known is not None and known.until > self._monotonic():
            return known.found
        row = await repository.caller(self._database, proof)
        found = _found(row) if row is not None else None
        until = self._monotonic() + self._remember_seconds
        if found is not None:  # what does not exist is not remembered: it may soon
            self._known[proof] = _Remembered(found, until)
            self._known.move_to_end(proof)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return found


def _found(row: Row[Any]) -> Found:
    known = KnownKey(
        revoked=row.revoked,
        expires_at=row.expires_at,
        addresses=tuple(row.addresses),
        tenant_state=row.tenant_state or "closed",
    )
    scopes = ROLE_SCOPES[Role(row.role)] if row.kind == "member" else expand(row.scopes)
    return Found(
        Actor(row.kind, row.id, row.tenant_id, _within_tenant(scopes, row.tenant_id)), known
    )


def _within_tenant(scopes: frozenset[Scope], tenant_id: str) -> frozenset[Scope]:
    """No row of a customer's can ever make an operator."""
    return scopes if tenant_id == PLATFORM_TENANT else scopes - {Scope.PLATFORM}
