"""A tenant's preference and residency rule, and `/v1/routes/explain`."""

from __future__ import annotations

import msgspec
from litestar import Controller, Response, get, post, put
from litestar.params import JSONBody

from prefill_control.access.scopes import Scope
from prefill_control.datacenters import wishes
from prefill_control.datacenters.models import DatacenterPreference, Residency
from prefill_control.datacenters.schemas import (
    PreferenceInput,
    PreferenceView,
    ResidencyInput,
    ResidencyView,
    RouteInput,
    RouteView,
)
from prefill_control.datacenters.wishes import Asked
from prefill_control.etags import etag_of
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import IfMatch, PathId, ThisWork

READ, MANAGE = {NEEDS: Scope.ACCOUNT_READ}, {NEEDS: Scope.MANAGE_DATACENTERS}


class WishController(Controller):
    """What a tenant wishes and demands about places."""

    path = "/v1/tenants/{tenant_id:str}"
    tags = ("datacenters",)

    @get("/datacenter-preference", operation_id="readDatacenterPreference", opt=READ)
    async def read_preference(self, work: ThisWork, tenant_id: PathId) -> Response[PreferenceView]:
        """Read the ordered wish."""
        return wish_answer(await wishes.preference(work, tenant_id))

    @put("/datacenter-preference", operation_id="putDatacenterPreference", opt=MANAGE)
    async def put_preference(
        self,
        work: ThisWork,
        tenant_id: PathId,
        data: JSONBody[PreferenceInput],
        if_match: IfMatch = None,
    ) -> Response[PreferenceView]:
        """Replace the ordered wish; If-Match is needed once there is one."""
        values = msgspec.structs.asdict(data)
        return wish_answer(await wishes.put_preference(work, tenant_id, values, if_match))

    @get("/residency", operation_id="readResidency", opt=READ)
    async def read_residency(self, work: ThisWork, tenant_id: PathId) -> Response[ResidencyView]:
        """Read the hard rule."""
        return rule_answer(await wishes.residency(work, tenant_id))

    @put("/residency", operation_id="putResidency", opt=MANAGE)
    async def put_residency(
        self,
        work: ThisWork,
        tenant_id: PathId,
        data: JSONBody[ResidencyInput],
        if_match: IfMatch = None,
    ) -> Response[ResidencyView]:
        """Replace the hard rule; If-Match is needed once there is one."""
        row = await wishes.put_residency(work, tenant_id, data.jurisdictions, if_match)
        return rule_answer(row)


class RouteController(Controller):
    """Where a request would go."""

    path = "/v1/routes"
    tags = ("datacenters",)

    @post("/explain", operation_id="explainRoute", opt=READ, status_code=200)
    async def explain(self, work: ThisWork, data: JSONBody[RouteInput]) -> RouteView:
        """Say where a request would go and why, step by step. Nothing is reserved."""
        asked = Asked(
            model=data.model,
            token_count=data.token_count,
            local_prefix_tokens=data.local_prefix_tokens,
            wishes=tuple(data.datacenters),
            residency=tuple(data.residency),
        )
        return RouteView.of(await wishes.explain(work, asked))


def wish_answer(row: DatacenterPreference) -> Response[PreferenceView]:
    """A preference with its ETag."""
    return Response(PreferenceView.of(row), headers={"ETag": etag_of(row.version)})


def rule_answer(row: Residency) -> Response[ResidencyView]:
    """A rule with its ETag."""
    return Response(ResidencyView.of(row), headers={"ETag": etag_of(row.version)})
