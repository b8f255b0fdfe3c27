"""`/v1/limits`."""

from __future__ import annotations

import msgspec
from litestar import Controller, Response, delete, get, put
from litestar.params import JSONBody

from prefill_control.access.scopes import Scope
from prefill_control.etags import etag_of
from prefill_control.quotas import service
from prefill_control.quotas.models import Limits
from prefill_control.quotas.schemas import LimitsInput, LimitsView
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork


class LimitsController(Controller):
    """Limits of the caller's account (`tenant`), and of its keys (their ids)."""

    path = "/v1/limits"
    tags = ("limits",)

    @get(operation_id="listLimits", opt={NEEDS: Scope.ACCOUNT_READ})
    async def list_all(self, work: ThisWork, page: ThisPage) -> Listing[LimitsView]:
        """List limits, newest first."""
        found = await service.page(work, page)
        views = [LimitsView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{subject:str}", operation_id="readLimits", opt={NEEDS: Scope.ACCOUNT_READ})
    async def read(self, work: ThisWork, subject: PathId) -> Response[LimitsView]:
        """Read the limits of `tenant` or of a key."""
        return answer(await service.read(work, subject))

    @put("/{subject:str}", operation_id="putLimits", opt={NEEDS: Scope.MANAGE_LIMITS})
    async def put(
        self,
        work: ThisWork,
        subject: PathId,
        data: JSONBody[LimitsInput],
        if_match: IfMatch = None,
    ) -> Response[LimitsView]:
        """Set the limits of a key; those of `tenant` are for operators to set."""
        return answer(await service.put(work, subject, msgspec.structs.asdict(data), if_match))

    @delete("/{subject:str}", operation_id="deleteLimits", opt={NEEDS: Scope.MANAGE_LIMITS})
    async def remove(self, work: ThisWork, subject: PathId) -> None:
        """Remove the limits of a key (operators: of `tenant`)."""
        await service.remove(work, subject)


def answer(limits: Limits) -> Response[LimitsView]:
    """Limits with their ETag."""
    return Response(LimitsView.of(limits), headers={"ETag": etag_of(limits.version)})
