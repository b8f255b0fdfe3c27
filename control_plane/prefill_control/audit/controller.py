"""`/v1/audit-rows`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.params import QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.audit import repository
from prefill_control.audit.models import AuditRow
from prefill_control.audit.repository import AuditFilter
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import Listing, Moment, ThisPage, ThisWork

Word = Annotated[str, QueryParameter(max_length=80, description="Only rows with this.")]


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what to which object, and how it looked before and after."""

    id: str
    tenant_id: str
    at: dt.datetime
    actor_kind: str
    actor_id: str
    action: str
    subject_kind: str
    subject_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str
    address: str

    @classmethod
    def of(cls, row: AuditRow) -> AuditView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class AuditController(Controller):
    """Audit rows; they are only ever added."""

    path = "/v1/audit-rows"
    tags = ("audit",)

    @get(operation_id="listAuditRows", opt={NEEDS: Scope.AUDIT_READ})
    async def list_all(
        self,
        work: ThisWork,
        page: ThisPage,
        *,
        action: Word = "",
        actor_id: Word = "",
        subject_id: Word = "",
        since: Moment = None,
        until: Moment = None,
    ) -> Listing[AuditView]:
        """List audit rows, newest first."""
        wanted = AuditFilter(
            action=action, actor_id=actor_id, subject_id=subject_id, since=since, until=until
        )
        found = await repository.page(work.session, wanted, page)
        views = [AuditView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)
