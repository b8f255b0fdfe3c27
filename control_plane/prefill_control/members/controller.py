"""`/v1/members` and `/v1/sessions`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from litestar import Controller, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Role, Scope
from prefill_control.access.secrets import Pepper
from prefill_control.errors import ControlError, ProblemCode
from prefill_control.etags import etag_of, expected_version
from prefill_control.members import service, sign_in
from prefill_control.members.models import Member
from prefill_control.members.schemas import (
    MemberChange,
    MemberInput,
    MemberView,
    NewPassword,
    SessionView,
    SignIn,
)
from prefill_control.web.boundary import NEEDS, PUBLIC
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork

RoleFilter = Annotated[Role | None, QueryParameter(name="role", description="Only these.")]


class MemberController(Controller):
    """People of the caller's account."""

    path = "/v1/members"
    tags = ("members",)

    @post(operation_id="createMember", opt={NEEDS: Scope.MANAGE_MEMBERS})
    async def create(self, work: ThisWork, data: JSONBody[MemberInput]) -> Response[MemberView]:
        """Add a member, with no more rights than the caller has."""
        return answer(await service.create(work, data.draft()), 201)

    @get(operation_id="listMembers", opt={NEEDS: Scope.ACCOUNT_READ})
    async def list_all(
        self, work: ThisWork, page: ThisPage, role: RoleFilter = None
    ) -> Listing[MemberView]:
        """List members, newest first."""
        found = await service.page(work, role or "", page)
        views = [MemberView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{member_id:str}", operation_id="readMember", opt={NEEDS: Scope.ACCOUNT_READ})
    async def read(self, work: ThisWork, member_id: PathId) -> Response[MemberView]:
        """Read a member."""
        return answer(await service.read(work, member_id))

    @put("/{member_id:str}", operation_id="updateMember", opt={NEEDS: Scope.MANAGE_MEMBERS})
    async def update(
        self,
        work: ThisWork,
        member_id: PathId,
        data: JSONBody[MemberChange],
        if_match: IfMatch = None,
    ) -> Response[MemberView]:
        """Change name and role; the last owner stays one."""
        version = expected_version(if_match)
        return answer(await service.change(work, member_id, data.name, data.role, version))

    @put(
        "/{member_id:str}/password",
        operation_id="setMemberPassword",
        opt={NEEDS: Scope.MANAGE_MEMBERS},
    )
    async def set_password(
        self,
        work: ThisWork,
        pepper: NamedDependency[Pepper],
        member_id: PathId,
        data: JSONBody[NewPassword],
    ) -> Response[MemberView]:
        """Set a password; every session of the member ends."""
        return answer(await service.set_password(work, pepper, member_id, data.password))

    @delete("/{member_id:str}", operation_id="deleteMember", opt={NEEDS: Scope.MANAGE_MEMBERS})
    async def remove(self, work: ThisWork, member_id: PathId) -> None:
        """Remove a member; keys that they made stay."""
        await service.remove(work, member_id)


class SessionController(Controller):
    """Password sessions."""

    path = "/v1/sessions"
    tags = ("members",)

    @post(operation_id="createSession", opt={NEEDS: PUBLIC}, security=[])
    async def create(
        self,
        work: ThisWork,
        pepper: NamedDependency[Pepper],
        state: State,
        data: JSONBody[SignIn],
    ) -> SessionView:
        """Sign in with tenant, e-mail and password; repeated failures lock the member."""
        shown = sign_in.Credentials(data.tenant_id, data.email, data.password)
        life = dt.timedelta(hours=state.settings.session_hours)
        made = await sign_in.sign_in(work, pepper, shown, life)
        return SessionView(
            token=made.secret.text,
            member_id=made.session.member_id,
            expires_at=made.session.expires_at,
        )

    @delete(operation_id="deleteSessions", opt={NEEDS: Scope.ACCOUNT_READ})
    async def sign_out(self, work: ThisWork) -> None:
        """Sign out everywhere."""
        if work.actor.kind != "member":
            raise ControlError(ProblemCode.PERMISSION_DENIED, "a key has no sessions; revoke it")
        await sign_in.sign_out(work)


def answer(member: Member, status: int = 200) -> Response[MemberView]:
    """A member with its ETag."""
    headers = {"ETag": etag_of(member.version)}
    if status == 201:
        headers["Location"] = f"/v1/members/{member.id}"
    return Response(MemberView.of(member), status_code=status, headers=headers)
