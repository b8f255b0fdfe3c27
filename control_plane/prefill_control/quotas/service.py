"""Limits of a tenant, which operators set, and of its keys, which the tenant sets within them."""

from __future__ import annotations

from collections.abc import Mapping

from prefill_wire.ids import new_id

from prefill_control.access.scopes import Scope
from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import invalid, not_found
from prefill_control.etags import check_version, expected_version
from prefill_control.keys import service as keys
from prefill_control.pages import PageOf, PageRequest
from prefill_control.quotas import repository
from prefill_control.quotas.evaluation import LimitSet, Quota
from prefill_control.quotas.gcra import Rate
from prefill_control.quotas.models import AMOUNTS, Limits
from prefill_control.work import Work

OF_TENANT = "tenant"
PAIRS = (("requests_per_second", "requests_burst"), ("tokens_per_second", "tokens_burst"))
QUOTAS = (("day_tokens_soft", "day_tokens_hard"), ("month_tokens_soft", "month_tokens_hard"))
Amounts = Mapping[str, int | None]


async def read(work: Work, subject: str) -> Limits:
    """The limits of `tenant` or of a key id; NOT_FOUND when there are none."""
    tenant_id, key_id = await _subject(work, subject)
    found = await repository.find(work.session, tenant_id, key_id)
    if found is None:
        raise not_found("limits")
    return found


async def page(work: Work, asked: PageRequest) -> PageOf[Limits]:
    """Limits that the caller may see."""
    return await repository.page(work.session, asked)


async def put(work: Work, subject: str, amounts: Amounts, if_match: str | None) -> Limits:
    """Set all limits of a subject; replacing what is there needs its ETag."""
    tenant_id, key_id = await _subject(work, subject)
    if key_id is None:
        work.actor.need(Scope.PLATFORM)
    check_amounts(amounts)
    limits = await repository.find(work.session, tenant_id, key_id)
    before = None
    if limits is None:
        limits = Limits(
            id=new_id("lim", work.random), tenant_id=tenant_id, key_id=key_id, created_at=work.now
        )
        work.session.add(limits)
    else:
        check_version(limits.version, expected_version(if_match))
        before = picture(limits)
    for name in AMOUNTS:
        setattr(limits, name, amounts.get(name))
    await work.session.flush()
    record(work, Change("limits.put", "limits", limits.id, before, picture(limits)), tenant_id)
    return limits


async def remove(work: Work, subject: str) -> None:
    """No limits of this subject's own any more."""
    tenant_id, key_id = await _subject(work, subject)
    if key_id is None:
        work.actor.need(Scope.PLATFORM)
    limits = await read(work, subject)
    before = picture(limits)
    await work.session.delete(limits)
    await work.session.flush()
    record(work, Change("limits.remove", "limits", limits.id, before, None), tenant_id)


def limit_set(row: Limits) -> LimitSet:
    """A row as the pure evaluation takes it; a rate without a burst bursts one second's worth."""
    rates = []
    for rate, burst in PAIRS:
        per_second = getattr(row, rate)
        most = getattr(row, burst) or per_second
        rates.append(Rate(per_second, most) if per_second else None)
    return LimitSet(
        subject=row.key_id or OF_TENANT,
        requests=rates[0],
        tokens=rates[1],
        concurrency=row.concurrency,
        day=Quota(row.day_tokens_soft, row.day_tokens_hard),
        month=Quota(row.month_tokens_soft, row.month_tokens_hard),
    )


def check_amounts(amounts: Amounts) -> None:
    """Bursts belong to rates, soft is not over hard."""
    for rate, burst in PAIRS:
        if amounts.get(burst) is not None and not amounts.get(rate):
            raise invalid(burst, f"a burst needs {rate}")
        if amounts.get(rate) == 0 or amounts.get(burst) == 0:
            raise invalid(rate, "at least 1; leave it out for no limit")
    for soft, hard in QUOTAS:
        low, high = amounts.get(soft), amounts.get(hard)
        if low is not None and high is not None and low > high:
            raise invalid(soft, f"{low} is over {hard} {high}")


async def _subject(work: Work, subject: str) -> tuple[str, str | None]:
    if subject == OF_TENANT:
        return work.tenant_id, None
    key = await keys.read(work, subject)
    return key.tenant_id, key.id
