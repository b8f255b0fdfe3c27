"""A tenant's preference and residency rule, and the route that they lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prefill_wire.ids import new_id

from prefill_control.audit.service import Change, picture, record
from prefill_control.datacenters import repository
from prefill_control.datacenters.decision import Question, Route, Site, Wish, decide
from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.errors import invalid
from prefill_control.etags import check_version, expected_version
from prefill_control.models import service as models
from prefill_control.tenants import service as tenants
from prefill_control.work import Work

# Until a fleet has measured its own: below it a prompt is prefilled before its state could arrive.
DEFAULT_THRESHOLD_TOKENS = 2048
Rule = TypeVar("Rule", DatacenterPreference, Residency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that is only asked about; empty wishes and residency are the account's own."""

    model: str
    token_count: int
    local_prefix_tokens: int = 0
    wishes: tuple[str, ...] = ()
    residency: tuple[str, ...] = ()


async def preference(work: Work, tenant_id: str) -> DatacenterPreference:
    """The tenant's preference; an empty one (version 0) when it never set any."""
    tenant = await tenants.read(work, tenant_id)
    found = await repository.preference(work.session, tenant.id)
    return found or DatacenterPreference(
        id="", tenant_id=tenant.id, wishes=[], allow=[], deny=[], fallback=True, version=0
    )


async def residency(work: Work, tenant_id: str) -> Residency:
    """The tenant's rule; an empty one (version 0) when it never set any."""
    tenant = await tenants.read(work, tenant_id)
    found = await repository.residency(work.session, tenant.id)
    return found or Residency(id="", tenant_id=tenant.id, jurisdictions=[], version=0)


async def put_preference(
    work: Work, tenant_id: str, values: Mapping[str, Any], if_match: str | None
) -> DatacenterPreference:
    """Replace the preference; every name has to be of the catalogue."""
    known = {row.name for row in await repository.everything(work.session)}
    for field in ("wishes", "allow", "deny"):
        unknown = sorted(set(values[field]) - known)
        if unknown:
            raise invalid(field, f"no datacenter {unknown[0]!r}")
    row = await preference(work, tenant_id)
    return await _put(work, row, values, if_match)


async def put_residency(
    work: Work, tenant_id: str, jurisdictions: list[str], if_match: str | None
) -> Residency:
    """Replace the rule; a jurisdiction without a datacenter would refuse everything."""
    known = {row.jurisdiction for row in await repository.everything(work.session)}
    unknown = sorted(set(jurisdictions) - known)
    if unknown:
        raise invalid("jurisdictions", f"no datacenter lies in {unknown[0]!r}")
    row = await residency(work, tenant_id)
    return await _put(work, row, {"jurisdictions": sorted(set(jurisdictions))}, if_match)


async def explain(work: Work, asked: Asked) -> Route:
    """Where the request would go now, step by step; nothing is reserved."""
    if asked.local_prefix_tokens > asked.token_count:
        raise invalid("local_prefix_tokens", f"over token_count {asked.token_count}")
    model = await models.read(work, asked.model)
    price = await models.price_now(work, asked.model)
    wish = await repository.preference(work.session, work.tenant_id)
    rule = await repository.residency(work.session, work.tenant_id)
    question = Question(
        model=asked.model,
        token_count=asked.token_count,
        context_tokens=model.context_tokens,
        uncached_tokens=asked.token_count - asked.local_prefix_tokens,
        threshold_tokens=DEFAULT_THRESHOLD_TOKENS,
        residency=narrowed(rule.jurisdictions if rule else [], asked.residency),
        wish=as_wish(wish, asked.wishes),
    )
    rate = price.input_miss_micros if price else None
    sites = [as_site(row, rate) for row in await repository.everything(work.session)]
    return decide(question, sites)


def as_wish(row: DatacenterPreference | None, named: tuple[str, ...] = ()) -> Wish:
    """A row as the decision takes it; names in the request come before the account's."""
    if row is None:
        return Wish(order=named)
    return Wish(
        order=tuple(dict.fromkeys((*named, *row.wishes))),
        allow=tuple(row.allow),
        deny=tuple(row.deny),
        max_price_micros=row.max_price_micros,
        max_added_latency_ms=row.max_added_latency_ms,
        fallback=row.fallback,
    )


def as_site(row: Datacenter, price_micros: int | None) -> Site:
    """A row as the decision takes it."""
    return Site(
        name=row.name,
        jurisdiction=row.jurisdiction,
        state=row.state,
        models=tuple(row.models),
        rtt_ms=row.rtt_ms,
        price_micros=price_micros,
    )


def narrowed(own: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    """The account's rule and the request's: a request may narrow it, never widen it.

    Two rules that exclude each other leave no place at all, not every place.
    """
    if own and named:
        return tuple(sorted(set(own) & set(named))) or ("nowhere",)
    return tuple(sorted({*own, *named}))


async def _put(work: Work, row: Rule, values: Mapping[str, Any], if_match: str | None) -> Rule:
    before = None
    if row.version:
        check_version(row.version, expected_version(if_match))
        before = picture(row)
    else:
        row.id = new_id("rul", work.random)
        row.created_at = work.now
        del row.version  # counted from the insert on
        work.session.add(row)
    for name, value in values.items():
        setattr(row, name, value)
    await work.session.flush()
    kind = type(row).__tablename__
    record(work, Change(f"{kind}.put", kind, row.id, before, picture(row)), row.tenant_id)
    return row
