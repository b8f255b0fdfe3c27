"""List prices and a tenant's own; a price is never changed, a later one replaces it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TypeVar

from prefill_wire.ids import new_id
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import ControlError, ProblemCode, invalid
from prefill_control.models import repository
from prefill_control.models.models import RATES, Price, PriceOverride
from prefill_control.models.pricing import Measure, PriceTerms, cost_micros, in_force
from prefill_control.work import Work

Row = TypeVar("Row", Price, PriceOverride)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceDraft:
    """Prices to be; `valid_until` is for overrides."""

    model: str
    valid_from: dt.datetime
    rates: dict[str, int]
    valid_until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of a request now, and its bound when no cache holds anything."""

    terms: PriceTerms
    amount_micros: int
    bound_micros: int


async def create(work: Work, draft: PriceDraft) -> Price:
    """A list price from `valid_from` on; the past cannot be priced anew."""
    check(work, draft)
    row = _fill(Price(id=new_id("prc", work.random), created_at=work.now), draft)
    work.session.add(row)
    await work.session.flush()
    record(work, Change("prices.create", "price", row.id, None, picture(row)))
    return row


async def create_override(work: Work, draft: PriceDraft) -> PriceOverride:
    """The work's tenant pays these instead of the list's."""
    check(work, draft)
    row = _fill(
        PriceOverride(id=new_id("pro", work.random), tenant_id=work.tenant_id, created_at=work.now),
        draft,
    )
    row.valid_until = draft.valid_until
    work.session.add(row)
    await work.session.flush()
    record(work, Change("price_overrides.create", "price_override", row.id, None, picture(row)))
    return row


async def quote(work: Work, model: str, measure: Measure) -> Quote:
    """What a request costs the work's tenant now; NO_PRICE when nothing is in force."""
    if measure.cached_tokens > measure.token_count:
        raise invalid("cached_tokens", f"over token_count {measure.token_count}")
    if (
        await repository.find(
            work.session, model, None if work.actor.is_operator else work.tenant_id
        )
        is None
    ):
        raise ControlError(ProblemCode.UNKNOWN_MODEL, f"no model {model!r} for this account")
    terms = await price_at(work.session, model, work.tenant_id, work.now)
    if terms is None:
        raise ControlError(ProblemCode.NO_PRICE, f"no price of {model} is in force")
    bound = Measure(
        token_count=measure.token_count,
        egress_bytes=measure.egress_bytes,
        relay_decode_tokens=measure.relay_decode_tokens,
    )
    return Quote(terms, cost_micros(terms, measure), cost_micros(terms, bound))


async def price_at(
    session: AsyncSession, model: str, tenant_id: str, at: dt.datetime
) -> PriceTerms | None:
    """The tenant's own price in force at a time, else the list's, else None."""
    own = await repository.overrides_of(session, model, tenant_id)
    found = in_force([terms_of(row) for row in own], at)
    if found is not None:
        return found
    listed = await repository.prices_of(session, model)
    return in_force([terms_of(row) for row in listed], at)


def terms_of(row: Price | PriceOverride) -> PriceTerms:
    """A row as the pure functions take it."""
    return PriceTerms(
        input_miss_micros=row.input_miss_micros,
        input_hit_micros=row.input_hit_micros,
        egress_micros=row.egress_micros,
        relay_decode_micros=row.relay_decode_micros,
        valid_from=row.valid_from,
        valid_until=row.valid_until if isinstance(row, PriceOverride) else None,
        source="override" if isinstance(row, PriceOverride) else "list",
    )


def check(work: Work, draft: PriceDraft) -> None:
    """From now on, ending after it begins, and a hit never dearer than a miss."""
    if draft.valid_from < work.now:
        raise invalid("valid_from", f"not before now, {work.now.isoformat()}")
    if draft.valid_until is not None and draft.valid_until <= draft.valid_from:
        raise invalid("valid_until", "not after valid_from")
    if draft.rates["input_hit_micros"] > draft.rates["input_miss_micros"]:
        raise invalid("input_hit_micros", "over input_miss_micros")


def _fill(row: Row, draft: PriceDraft) -> Row:
    row.model, row.valid_from = draft.model, draft.valid_from
    for name in RATES:
        setattr(row, name, draft.rates[name])
    return row
