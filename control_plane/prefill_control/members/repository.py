"""All SQL about members and their sessions."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.members.models import Member, MemberSession, SignInTries
from prefill_control.pages import Order, PageOf, PageRequest, page_of

ORDER = Order(Member.created_at, Member.id)


async def find(session: AsyncSession, member_id: str) -> Member | None:
    """The member, when the transaction may see it."""
    return await session.scalar(select(Member).where(Member.id == member_id))


async def by_email(session: AsyncSession, email: str) -> Member | None:
    """The member with this address in the transaction's tenant, locked: guesses queue up."""
    return await session.scalar(select(Member).where(Member.email == email).with_for_update())


async def tries_in(session: AsyncSession, slot: int, proof: str) -> SignInTries:
    """The wrong passwords counted for a proof, locked from the first on: guesses queue up."""
    statement = insert(SignInTries).values(slot=slot, proof=proof, failures=0, locked_until=None)
    same = SignInTries.proof == statement.excluded.proof
    kept = {
        "proof": statement.excluded.proof,
        "failures": case((same, SignInTries.failures), else_=0),
        "locked_until": case((same, SignInTries.locked_until)),
    }
    upsert = statement.on_conflict_do_update(index_elements=["slot"], set_=kept)
    fresh = {"populate_existing": True}
    found = await session.scalars(upsert.returning(SignInTries), execution_options=fresh)
    return found.one()


async def page(session: AsyncSession, role: str, asked: PageRequest) -> PageOf[Member]:
    """Members, newest first; `role` empty for all."""
    statement = select(Member)
    if role:
        statement = statement.where(Member.role == role)
    return await page_of(session, statement, ORDER, asked)


async def other_owners(session: AsyncSession, member: Member, role: str) -> int:
    """How many others of the tenant have this role; they are locked, so none leaves meanwhile."""
    others = (
        select(Member.id)
        .where(Member.tenant_id == member.tenant_id, Member.role == role, Member.id != member.id)
        .with_for_update()
    )
    return await session.scalar(select(func.count()).select_from(others.subquery())) or 0


async def end_sessions(session: AsyncSession, member_id: str) -> None:
    """The member has to sign in again, everywhere."""
    await session.execute(delete(MemberSession).where(MemberSession.member_id == member_id))


async def end_session(session: AsyncSession, proof: str) -> None:
    """One session is over."""
    await session.execute(delete(MemberSession).where(MemberSession.proof == proof))


async def drop_expired(session: AsyncSession, member_id: str, now: dt.datetime) -> None:
    """A member's old sessions are no longer kept."""
    await session.execute(
        delete(MemberSession).where(
            MemberSession.member_id == member_id, MemberSession.expires_at <= now
        )
    )
