"""`/v1/prices`, `/v1/price-overrides` and `/v1/quotes`."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get, post
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.models import prices, repository
from prefill_control.models.pricing import Measure
from prefill_control.models.schemas import (
    OverrideInput,
    OverrideView,
    PriceInput,
    PriceView,
    QuoteInput,
    QuoteView,
)
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import Listing, ThisPage, ThisWork

READ, OPERATORS = {NEEDS: Scope.ACCOUNT_READ}, {NEEDS: Scope.PLATFORM}
OfModel = Annotated[
    str, QueryParameter(name="model", max_length=64, description="Only of this model.")
]


class PriceController(Controller):
    """List prices; a new one replaces the old from its date on."""

    path = "/v1/prices"
    tags = ("prices",)

    @post(operation_id="createPrice", opt=OPERATORS)
    async def create(self, work: ThisWork, data: JSONBody[PriceInput]) -> PriceView:
        """Set list prices from a date on."""
        return PriceView.of(await prices.create(work, data.draft()))

    @get(operation_id="listPrices", opt=READ)
    async def list_all(
        self, work: ThisWork, page: ThisPage, model: OfModel = ""
    ) -> Listing[PriceView]:
        """List prices, the latest validity first."""
        found = await repository.prices(work.session, model, page)
        views = [PriceView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)


class OverrideController(Controller):
    """A tenant's own prices."""

    path = "/v1/price-overrides"
    tags = ("prices",)

    @post(operation_id="createPriceOverride", opt=OPERATORS)
    async def create(self, work: ThisWork, data: JSONBody[OverrideInput]) -> OverrideView:
        """Set prices of the tenant that Prefill-Tenant names."""
        return OverrideView.of(await prices.create_override(work, data.draft(data.valid_until)))

    @get(operation_id="listPriceOverrides", opt=READ)
    async def list_all(
        self, work: ThisWork, page: ThisPage, model: OfModel = ""
    ) -> Listing[OverrideView]:
        """List overrides, the latest validity first."""
        found = await repository.overrides(work.session, model, page)
        views = [OverrideView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)


class QuoteController(Controller):
    """What a request would cost."""

    path = "/v1/quotes"
    tags = ("prices",)

    @post(operation_id="createQuote", opt=READ, status_code=200)
    async def create(self, work: ThisWork, data: JSONBody[QuoteInput]) -> QuoteView:
        """Price a request now: with its cache hit, and at most."""
        measure = Measure(
            token_count=data.token_count,
            cached_tokens=data.cached_tokens,
            egress_bytes=data.egress_bytes,
            relay_decode_tokens=data.relay_decode_tokens,
        )
        return QuoteView.of(await prices.quote(work, data.model, measure))
