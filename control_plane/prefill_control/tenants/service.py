"""The life of a tenant.

suspended  keys and sessions are refused, requests in flight end as they would, data stays
active     as before the suspension: the same keys work again
closed     keys revoked and sessions ended for good; receipts, usage and audit rows stay
"""

from __future__ import annotations

from prefill_wire.ids import new_id

from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import ControlError, ProblemCode, invalid
from prefill_control.etags import check_version
from prefill_control.pages import PageOf, PageRequest
from prefill_control.tenants import repository
from prefill_control.tenants.errors import no_such_tenant, wrong_state
from prefill_control.tenants.models import PLATFORM_TENANT, Tenant, TenantState
from prefill_control.work import Work

MOVES = {
    TenantState.SUSPENDED: {TenantState.ACTIVE},
    TenantState.ACTIVE: {TenantState.SUSPENDED},
    TenantState.CLOSED: {TenantState.ACTIVE, TenantState.SUSPENDED},
}


async def create(work: Work, name: str) -> Tenant:
    """A new, active tenant; NAME_TAKEN when another has the name."""
    if work.tenant_id != PLATFORM_TENANT:
        raise invalid("Prefill-Tenant", "a tenant is made in no other tenant")
    tenant = Tenant(
        id=new_id("ten", work.random), name=name, state=TenantState.ACTIVE, created_at=work.now
    )
    tenant.reason, tenant.closed_at = "", None
    work.session.add(tenant)
    await work.session.flush()
    change = Change("tenants.create", "tenant", tenant.id, None, picture(tenant))
    record(work, change, tenant.id)
    return tenant


async def read(work: Work, tenant_id: str) -> Tenant:
    """The tenant; NOT_FOUND for an absent one and for somebody else's."""
    tenant = await repository.find(work.session, tenant_id)
    if tenant is None:
        raise no_such_tenant()
    return tenant


async def page(work: Work, state: str, asked: PageRequest) -> PageOf[Tenant]:
    """Tenants that the caller may see."""
    return await repository.page(work.session, state, asked)


async def rename(work: Work, tenant_id: str, name: str, version: int | None) -> Tenant:
    """Another name for the same account."""
    tenant = await read(work, tenant_id)
    check_version(tenant.version, version)
    before = picture(tenant)
    tenant.name = name
    await work.session.flush()
    record(work, Change("tenants.update", "tenant", tenant.id, before, picture(tenant)), tenant.id)
    return tenant


async def move(work: Work, tenant_id: str, state: TenantState, reason: str) -> Tenant:
    """Suspend, resume or close; WRONG_STATE when it can't be, or is so already."""
    tenant = await read(work, tenant_id)
    if tenant.id == PLATFORM_TENANT:
        raise ControlError(ProblemCode.WRONG_STATE, "the platform's own account stays active")
    if tenant.state not in MOVES[state]:
        raise wrong_state(tenant.name, tenant.state, state)
    before = picture(tenant)
    tenant.state, tenant.reason = state, reason
    if state is TenantState.CLOSED:
        tenant.closed_at = work.now
        await repository.revoke_everything(work, tenant.id)
    await work.session.flush()
    change = Change(f"tenants.{state}", "tenant", tenant.id, before, picture(tenant))
    record(work, change, tenant.id)
    return tenant
