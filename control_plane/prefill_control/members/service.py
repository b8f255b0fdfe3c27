"""Members of a tenant and what their role lets them do to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefill_wire.ids import new_id

from prefill_control.access.scopes import ROLE_SCOPES, Role
from prefill_control.access.secrets import Pepper
from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import ControlError, ProblemCode, invalid
from prefill_control.etags import check_version
from prefill_control.members import repository
from prefill_control.members.errors import last_owner, no_such_member
from prefill_control.members.models import Member
from prefill_control.members.passwords import hash_password
from prefill_control.members.sign_in import tries_of, unlock
from prefill_control.pages import PageOf, PageRequest
from prefill_control.tenants.models import PLATFORM_TENANT
from prefill_control.work import Work

KEEPERS = {Role.OWNER, Role.OPERATOR}  # at least one of the tenant's kind stays


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDraft:
    """A member to be; without a password they cannot sign in by one."""

    email: str
    name: str
    role: Role
    password: str = field(default="", repr=False)


async def create(work: Work, draft: MemberDraft) -> Member:
    """A new member of the work's tenant, with no more rights than their maker has."""
    check_role(work, draft.role)
    hashed = await hash_password(draft.password) if draft.password else ""
    member = Member(
        id=new_id("mem", work.random),
        tenant_id=work.tenant_id,
        email=normal_email(draft.email),
        name=draft.name,
        role=draft.role,
        password_hash=hashed,
        failed_sign_ins=0,
        locked_until=None,
        created_at=work.now,
    )
    work.session.add(member)
    await work.session.flush()
    record(work, Change("members.create", "member", member.id, None, picture(member)))
    return member


async def read(work: Work, member_id: str) -> Member:
    """The member; NOT_FOUND for an absent one and for somebody else's."""
    member = await repository.find(work.session, member_id)
    if member is None:
        raise no_such_member()
    return member


async def page(work: Work, role: str, asked: PageRequest) -> PageOf[Member]:
    """Members that the caller may see."""
    return await repository.page(work.session, role, asked)


async def change(work: Work, member_id: str, name: str, role: Role, version: int | None) -> Member:
    """Another name or role; a new role is in force with the next request."""
    member = await read(work, member_id)
    check_version(member.version, version)
    check_role(work, Role(member.role))
    check_role(work, role)
    if role != member.role:
        await _check_keeper(work, member)
    before = picture(member)
    member.name, member.role = name, role
    await work.session.flush()
    change_ = Change("members.update", "member", member.id, before, picture(member))
    record(work, change_, member.tenant_id)
    return member


async def remove(work: Work, member_id: str) -> None:
    """The member is gone, with their sessions; keys that they made stay."""
    member = await read(work, member_id)
    check_role(work, Role(member.role))
    await _check_keeper(work, member)
    before, tenant_id = picture(member), member.tenant_id
    await repository.end_sessions(work.session, member.id)
    await work.session.delete(member)
    await work.session.flush()
    record(work, Change("members.remove", "member", member_id, before, None), tenant_id)


async def set_password(work: Work, pepper: Pepper, member_id: str, password: str) -> Member:
    """A new password ends every session and any lock."""
    member = await read(work, member_id)
    check_role(work, Role(member.role))
    before = picture(member)
    hashed = await hash_password(password)
    # The lock before the member, as who signs in takes them: neither waits for the other for ever.
    unlock(await tries_of(work, pepper, member.tenant_id, member.email), member)
    member.password_hash = hashed
    await repository.end_sessions(work.session, member.id)
    await work.session.flush()
    change_ = Change("members.set_password", "member", member.id, before, picture(member))
    record(work, change_, member.tenant_id)
    return member


def check_role(work: Work, role: Role) -> None:
    """Nobody gives or takes a role with more rights than their own."""
    if role is Role.OPERATOR and work.tenant_id != PLATFORM_TENANT:
        raise ControlError(
            ProblemCode.PERMISSION_DENIED, "the role operator is for the platform's own people"
        )
    missing = ROLE_SCOPES[role] - work.actor.scopes
    if missing:
        raise ControlError(
            ProblemCode.PERMISSION_DENIED, f"the role {role} has rights that this caller lacks"
        )


def normal_email(text: str) -> str:
    """Lower case, one @, no spaces: enough to tell two people apart."""
    email = text.strip().lower()
    local, _, domain = email.partition("@")
    plain = email.isprintable() and " " not in email
    if not (local and domain and "@" not in domain and plain):
        raise invalid("email", "an address like ada@example.com")
    return email


async def _check_keeper(work: Work, member: Member) -> None:
    if Role(member.role) in KEEPERS:
        others = await repository.other_owners(work.session, member, member.role)
        if others == 0:
            raise last_owner()
