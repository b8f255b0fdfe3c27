"""Password sessions: sign in, sign out, and the lock after too many wrong passwords.

Failures count for addresses that nobody has as they do for members', in the same rows, so that
neither a lock nor its absence tells whether an address exists.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from prefill_wire.ids import new_id

from prefill_control.access.secrets import SESSION_PREFIX, Pepper, Secret
from prefill_control.audit.service import Change, record
from prefill_control.db import enter_tenant
from prefill_control.members import repository
from prefill_control.members.errors import locked, sign_in_refused
from prefill_control.members.models import Member, MemberSession, SignInTries
from prefill_control.members.passwords import password_fits
from prefill_control.work import Work

FREE_TRIES = 5
FIRST_LOCK = dt.timedelta(minutes=1)
LONGEST_LOCK = dt.timedelta(hours=1)
# Rows at most (some 20 MB). Who wants an address forgotten makes half as many wrong sign-ins with
# others, each a hash of 64 MiB, and has then five tries more.
SLOTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a person types; the tenant's id tells accounts with the same address apart."""

    tenant_id: str
    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A fresh session and the token that is shown once."""

    session: MemberSession
    secret: Secret


async def sign_in(work: Work, pepper: Pepper, shown: Credentials, life: dt.timedelta) -> SignedIn:
    """A session; the refusal does not tell which of the three was wrong."""
    email = shown.email.strip().lower()
    tries = await tries_of(work, pepper, shown.tenant_id, email)
    if tries.locked_until is not None and tries.locked_until > work.now:
        raise locked(int((tries.locked_until - work.now).total_seconds()) + 1)
    await enter_tenant(work.session, shown.tenant_id)
    member = await repository.by_email(work.session, email)
    fits = await password_fits(member.password_hash if member else "", shown.password)
    if member is None or not fits:
        _count_failure(work, tries, member)
        raise sign_in_refused()
    unlock(tries, member)
    await repository.drop_expired(work.session, member.id, work.now)
    secret = pepper.new_secret(SESSION_PREFIX, work.random)
    session = MemberSession(
        id=new_id("ses", work.random),
        tenant_id=member.tenant_id,
        member_id=member.id,
        proof=secret.proof,
        expires_at=work.now + life,
        address=work.address,
        created_at=work.now,
    )
    work.session.add(session)
    await work.session.flush()
    after = {"member_id": member.id, "expires_at": session.expires_at.isoformat()}
    change = Change("sessions.create", "session", session.id, None, after)
    record(work, change, member.tenant_id)
    return SignedIn(session, secret)


async def sign_out(work: Work) -> None:
    """Every session of the calling member is over."""
    await repository.end_sessions(work.session, work.actor.id)
    record(work, Change("sessions.delete", "member", work.actor.id), work.actor.tenant_id)


def lock_after(failures: int) -> dt.timedelta:
    """No lock for the first tries, then one that doubles with each."""
    if failures < FREE_TRIES:
        return dt.timedelta(0)
    doublings: int = 2 ** min(failures - FREE_TRIES, 10)
    return min(FIRST_LOCK * doublings, LONGEST_LOCK)


async def tries_of(work: Work, pepper: Pepper, tenant_id: str, email: str) -> SignInTries:
    """What is counted for an address of a tenant, be there such or not; locked for this work."""
    digest = pepper.derive("sign-in tries", tenant_id, email)
    slot = int.from_bytes(digest[:8], "big") % SLOTS
    return await repository.tries_in(work.session, slot, digest.hex())


def unlock(tries: SignInTries, member: Member) -> None:
    """Nothing is held against the member any more."""
    tries.failures, tries.locked_until = 0, None
    member.failed_sign_ins, member.locked_until = 0, None


def _count_failure(work: Work, tries: SignInTries, member: Member | None) -> None:
    """Counts although the answer is a refusal."""
    tries.failures += 1
    lock = lock_after(tries.failures)
    if lock:
        tries.locked_until = work.now + lock
    if member is not None:
        member.failed_sign_ins, member.locked_until = tries.failures, tries.locked_until
        after = {"failed_sign_ins": member.failed_sign_ins}
        change = Change("sessions.refuse", "member", member.id, None, after)
        record(work, change, member.tenant_id)
    work.keep_on_refusal()
