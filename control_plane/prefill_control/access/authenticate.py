"""Who a bearer secret belongs to: looked up by its proof, remembered for a moment."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.access.scopes import ROLE_SCOPES, Role, Scope, expand
from prefill_control.access.secrets import KEY_PREFIX, SESSION_PREFIX, Pepper, well_formed
from prefill_control.db import Database, OfProof, enter_tenant
from prefill_control.errors import ControlError, ProblemCode
from prefill_control.keys.models import ApiKey
from prefill_control.keys.status import PROBLEM_OF, KeyStatus, KnownKey, key_status
from prefill_control.members.models import Member, MemberSession
from prefill_control.tenants.models import PLATFORM_TENANT, Tenant
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
        if not (well_formed(secret, KEY_PREFIX) or well_formed(secret, SESSION_PREFIX)):
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
        async with self._database.transaction(OfProof(proof)) as session:
            found = await _by_key(session, proof) or await _by_session(session, proof)
        until = self._monotonic() + self._remember_seconds
        if found is not None:  # what does not exist is not remembered: it may soon
            self._known[proof] = _Remembered(found, until)
            self._known.move_to_end(proof)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return found


async def _enter(session: AsyncSession, tenant_id: str) -> str:
    """Go on as the tenant that the proof belongs to; its state."""
    await enter_tenant(session, tenant_id)
    state = await session.scalar(select(Tenant.state).where(Tenant.id == tenant_id))
    return state or "closed"


async def _by_key(session: AsyncSession, proof: str) -> Found | None:
    row = await session.scalar(select(ApiKey).where(ApiKey.key_hash == proof))
    if row is None:
        return None
    known = KnownKey(
        revoked=row.state != "active",
        expires_at=row.expires_at,
        addresses=tuple(row.addresses),
        tenant_state=await _enter(session, row.tenant_id),
    )
    scopes = _within_tenant(expand(row.scopes), row.tenant_id)
    return Found(Actor("key", row.id, row.tenant_id, scopes), known)


async def _by_session(session: AsyncSession, proof: str) -> Found | None:
    row = await session.scalar(select(MemberSession).where(MemberSession.proof == proof))
    if row is None:
        return None
    known = KnownKey(False, row.expires_at, (), await _enter(session, row.tenant_id))
    role = await session.scalar(select(Member.role).where(Member.id == row.member_id))
    scopes = _within_tenant(ROLE_SCOPES[Role(role or Role.VIEWER)], row.tenant_id)
    return Found(Actor("member", row.member_id, row.tenant_id, scopes), known)


def _within_tenant(scopes: frozenset[Scope], tenant_id: str) -> frozenset[Scope]:
    """No row of a customer's can ever make an operator."""
    return scopes if tenant_id == PLATFORM_TENANT else scopes - {Scope.PLATFORM}
