"""Prices in integer micros per million tokens (egress: per million bytes), and quotes."""

from __future__ import annotations

import datetime as dt

from prefill_cloud.manage.calls import Call, Rows, View, asking, doing, listing
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class Rates(View, frozen=True, kw_only=True):
    """What is charged: prompt tokens computed or found in the cache, bytes, relayed tokens."""

    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int = 0
    relay_decode_micros: int = 0


class PriceValues(Rates, frozen=True, kw_only=True):
    """Rates of a model from a time on, which is never in the past."""

    model: str
    valid_from: dt.datetime


class OverrideValues(PriceValues, frozen=True, kw_only=True):
    """An account's own rates, until a time or until the next."""

    valid_until: dt.datetime | None = None


class Price(PriceValues, frozen=True, kw_only=True):
    """A list price."""

    id: str
    currency: str
    created_at: dt.datetime


class PriceOverride(OverrideValues, frozen=True, kw_only=True):
    """An account's own price."""

    id: str
    currency: str
    tenant_id: str
    created_at: dt.datetime


class QuoteRequest(View, frozen=True, kw_only=True):
    """A request that is only asked about."""

    model: str
    token_count: int
    cached_tokens: int = 0
    egress_bytes: int = 0
    relay_decode_tokens: int = 0


class Quote(Rates, frozen=True, kw_only=True):
    """What it costs now, with its cache hit and at most; `source` is list or override."""

    amount_micros: int
    bound_micros: int
    currency: str
    source: str
    valid_from: dt.datetime


class Prices(Noun[M]):
    """`client.prices`: the list, for operators to set."""

    @verb("createPrice")
    def create(self, values: PriceValues, *, idempotency_key: str = "") -> Call[Price]:
        """Set list prices from a date on."""
        return doing(Price, values, "prices", key=idempotency_key)

    @list_verb("listPrices")
    def list(self, *, model: str = "") -> Rows[Price]:
        """List prices, the latest validity first."""
        return listing(Price, "prices", {"model": model})


class PriceOverrides(Noun[M]):
    """`client.price_overrides`; for operators, on behalf of `client.for_tenant(...)`."""

    @verb("createPriceOverride")
    def create(self, values: OverrideValues, *, idempotency_key: str = "") -> Call[PriceOverride]:
        """Set the account's own prices."""
        return doing(PriceOverride, values, "price-overrides", key=idempotency_key)

    @list_verb("listPriceOverrides")
    def list(self, *, model: str = "") -> Rows[PriceOverride]:
        """The account's own prices, the latest validity first."""
        return listing(PriceOverride, "price-overrides", {"model": model})


class Quotes(Noun[M]):
    """`client.quotes`."""

    @verb("createQuote")
    def create(self, request: QuoteRequest) -> Call[Quote]:
        """Price a request now; nothing is reserved."""
        return asking(Quote, request, "quotes")
