"""`/v1/tenants`."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, patch, post
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.etags import etag_of, expected_version
from prefill_control.tenants import service
from prefill_control.tenants.models import Tenant, TenantState
from prefill_control.tenants.schemas import Reason, TenantDraft, TenantPatch, TenantView
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork

StateFilter = Annotated[TenantState | None, QueryParameter(name="state", description="Only these.")]


class TenantController(Controller):
    """Tenants; creating and moving them is for operators."""

    path = "/v1/tenants"
    tags = ("tenants",)

    @post(operation_id="createTenant", opt={NEEDS: Scope.PLATFORM})
    async def create(self, work: ThisWork, data: JSONBody[TenantDraft]) -> Response[TenantView]:
        """Create a tenant."""
        return answer(await service.create(work, data.name), 201)

    @get(operation_id="listTenants", opt={NEEDS: Scope.ACCOUNT_READ})
    async def list_all(
        self, work: ThisWork, page: ThisPage, in_state: StateFilter = None
    ) -> Listing[TenantView]:
        """List tenants: operators see all of them, others their own."""
        found = await service.page(work, in_state or "", page)
        views = [TenantView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{tenant_id:str}", operation_id="readTenant", opt={NEEDS: Scope.ACCOUNT_READ})
    async def read(self, work: ThisWork, tenant_id: PathId) -> Response[TenantView]:
        """Read a tenant."""
        return answer(await service.read(work, tenant_id))

    @patch("/{tenant_id:str}", operation_id="updateTenant", opt={NEEDS: Scope.MANAGE_TENANT})
    async def update(
        self,
        work: ThisWork,
        tenant_id: PathId,
        data: JSONBody[TenantPatch],
        if_match: IfMatch = None,
    ) -> Response[TenantView]:
        """Rename a tenant."""
        version = expected_version(if_match)
        return answer(await service.rename(work, tenant_id, data.name, version))

    @post(
        "/{tenant_id:str}/suspend",
        operation_id="suspendTenant",
        opt={NEEDS: Scope.PLATFORM},
        status_code=200,
    )
    async def suspend(
        self, work: ThisWork, tenant_id: PathId, data: JSONBody[Reason]
    ) -> Response[TenantView]:
        """Suspend: keys and sessions are refused, everything is kept."""
        return answer(await service.move(work, tenant_id, TenantState.SUSPENDED, data.reason))

    @post(
        "/{tenant_id:str}/resume",
        operation_id="resumeTenant",
        opt={NEEDS: Scope.PLATFORM},
        status_code=200,
    )
    async def resume(
        self, work: ThisWork, tenant_id: PathId, data: JSONBody[Reason]
    ) -> Response[TenantView]:
        """Resume: the same keys work again."""
        return answer(await service.move(work, tenant_id, TenantState.ACTIVE, data.reason))

    @post(
        "/{tenant_id:str}/close",
        operation_id="closeTenant",
        opt={NEEDS: Scope.PLATFORM},
        status_code=200,
    )
    async def close(
        self, work: ThisWork, tenant_id: PathId, data: JSONBody[Reason]
    ) -> Response[TenantView]:
        """Close for good: keys are revoked, receipts and audit rows stay."""
        return answer(await service.move(work, tenant_id, TenantState.CLOSED, data.reason))


def answer(tenant: Tenant, status: int = 200) -> Response[TenantView]:
    """A tenant with its ETag."""
    headers = {"ETag": etag_of(tenant.version)}
    if status == 201:
        headers["Location"] = f"/v1/tenants/{tenant.id}"
    return Response(TenantView.of(tenant), status_code=status, headers=headers)
