"""`/v1/usage`, `/v1/receipts`, `/v1/requests`, and `/internal/receipts` for gateways."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get, post
from litestar.datastructures import State
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.errors import not_found
from prefill_control.usage import repository
from prefill_control.usage.receipts import ingest
from prefill_control.usage.repository import UsageFilter
from prefill_control.usage.schemas import (
    BatchView,
    JudgedView,
    ReceiptBatch,
    ReceiptView,
    RequestView,
    UsageView,
)
from prefill_control.usage.sums import GroupBy, summed
from prefill_control.web.boundary import FLEET, NEEDS
from prefill_control.web.schemas import Listing, Moment, PathId, ThisPage, ThisWork

READ = {NEEDS: Scope.USAGE_READ}
Word = Annotated[str, QueryParameter(max_length=80, description="Only of this.")]
Groups = Annotated[
    list[GroupBy] | None,
    QueryParameter(max_items=7, description="What to sum by, repeated; tenant when left out."),
]


class UsageController(Controller):
    """Usage of the caller's account; operators see every account."""

    path = "/v1"
    tags = ("usage",)

    @get("/usage", operation_id="listUsage", opt=READ)
    async def usage(
        self,
        work: ThisWork,
        page: ThisPage,
        *,
        group_by: Groups = None,
        key_id: Word = "",
        model: Word = "",
        datacenter: Word = "",
        since: Moment = None,
        until: Moment = None,
    ) -> Listing[UsageView]:
        """Sum usage by tenant, key, model, datacenter, hour, day or month."""
        wanted = UsageFilter(
            key_id=key_id, model=model, datacenter=datacenter, since=since, until=until
        )
        found = await summed(work.session, group_by or [], wanted, page)
        views = [UsageView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/receipts", operation_id="listReceipts", opt=READ)
    async def receipts(
        self,
        work: ThisWork,
        page: ThisPage,
        *,
        key_id: Word = "",
        model: Word = "",
        datacenter: Word = "",
        since: Moment = None,
        until: Moment = None,
    ) -> Listing[ReceiptView]:
        """List receipts, the latest finished first."""
        wanted = UsageFilter(
            key_id=key_id, model=model, datacenter=datacenter, since=since, until=until
        )
        found = await repository.receipts(work.session, wanted, page)
        views = [ReceiptView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/requests", operation_id="listRequests", opt=READ)
    async def requests(
        self,
        work: ThisWork,
        page: ThisPage,
        *,
        key_id: Word = "",
        model: Word = "",
        datacenter: Word = "",
        since: Moment = None,
        until: Moment = None,
    ) -> Listing[RequestView]:
        """List requests with route, reason and timeline, the latest first."""
        wanted = UsageFilter(
            key_id=key_id, model=model, datacenter=datacenter, since=since, until=until
        )
        found = await repository.requests(work.session, wanted, page)
        views = [RequestView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/requests/{request_id:str}", operation_id="readRequest", opt=READ)
    async def request(self, work: ThisWork, request_id: PathId) -> RequestView:
        """Read the newest attempt of a request."""
        row = await repository.request(work.session, request_id)
        if row is None:
            raise not_found("request")
        return RequestView.of(row)


class IngestController(Controller):
    """Gateways deliver receipts here; the fleet's token opens it, no key does."""

    path = "/internal/receipts"
    include_in_schema = False

    @post(operation_id="ingestReceipts", opt={NEEDS: FLEET}, status_code=200)
    async def ingest(self, work: ThisWork, state: State, data: JSONBody[ReceiptBatch]) -> BatchView:
        """Count receipts, each exactly once."""
        lines = [line.delivered() for line in data.lines]
        judged = await ingest(work, state.control_public_key, lines)
        return BatchView(lines=[JudgedView.of(line) for line in judged])
