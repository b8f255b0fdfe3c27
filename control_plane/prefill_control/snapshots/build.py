"""From rows to what a gateway is told. Pure: equal rows give equal bytes."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from prefill_fleet.snapshot import (
    KeyEntry,
    LimitNumbers,
    ModelEntry,
    PlaceEntry,
    PreferenceEntry,
    PriceSpan,
    Rates,
    TenantEntry,
)
from sqlalchemy import Row

from prefill_control.access.scopes import Scope
from prefill_control.quotas.models import AMOUNTS
from prefill_control.snapshots.repository import CatalogueRows, TenantRows

# A key that ended longer ago is unknown to gateways: entries must not grow for ever.
REMEMBER_ENDED = dt.timedelta(days=7)
NEVER = 0


def build_places(rows: CatalogueRows) -> tuple[PlaceEntry, ...]:
    """Every datacenter; one that is cordoned or draining takes no new request."""
    return tuple(
        PlaceEntry(name=d.name, jurisdiction=d.jurisdiction, active=d.state == "active")
        for d in rows.datacenters
    )


def build_models(rows: CatalogueRows) -> tuple[ModelEntry, ...]:
    """Every model as the catalogue has it, its list prices in the order in which they begin."""
    prices = _spans(rows.prices)
    return tuple(
        ModelEntry(
            name=model.name,
            fingerprint=model.fingerprint,
            tokenizer_fingerprint=model.tokenizer_fingerprint,
            numerics_profile=model.numerics_profile,
            context_tokens=model.context_tokens,
            codecs=tuple(model.codecs),
            active=model.state == "active",
            restricted=model.restricted,
            prices=prices.get(model.name, ()),
        )
        for model in rows.models
    )


def build_tenant(rows: TenantRows, now: dt.datetime) -> TenantEntry:
    """One tenant's entry."""
    by_key = {limits.key_id: _numbers(limits) for limits in rows.limits}
    keys = [_key(key, by_key.get(key.id)) for key in rows.keys if not _long_ended(key, now)]
    return TenantEntry(
        tenant=rows.tenant.id,
        state=rows.tenant.state,
        keys=tuple(keys),
        limits=by_key.get(None, LimitNumbers()),
        preference=_preference(rows.preferences),
        jurisdictions=tuple(sorted({j for row in rows.residencies for j in row.jurisdictions})),
        granted_models=tuple(sorted(grant.model for grant in rows.grants)),
        overrides=_spans(rows.overrides),
    )


def is_forgotten(tenant: Row[Any], now: dt.datetime) -> bool:
    """Closed for so long that every key is unknown by now: there is no entry."""
    closed_at = tenant.closed_at if tenant.state == "closed" else None
    return closed_at is not None and closed_at < now - REMEMBER_ENDED


def _key(key: Row[Any], limits: LimitNumbers | None) -> KeyEntry:
    return KeyEntry(
        key_id=key.id,
        proof=key.key_hash,
        revoked=key.state != "active",
        expires_at_ms=_ms(key.expires_at),
        may_prefill=Scope.PREFILL in key.scopes,
        addresses=tuple(key.addresses),
        limits=limits,
    )


def _long_ended(key: Row[Any], now: dt.datetime) -> bool:
    ends = [moment for moment in (key.expires_at, key.revoked_at) if moment is not None]
    return bool(ends) and min(ends) < now - REMEMBER_ENDED


def _numbers(limits: Row[Any]) -> LimitNumbers:
    return LimitNumbers(**{name: getattr(limits, name) for name in AMOUNTS})


def _preference(rows: Sequence[Row[Any]]) -> PreferenceEntry:
    if not rows:
        return PreferenceEntry()
    (row,) = rows  # the table holds one a tenant
    return PreferenceEntry(
        wishes=tuple(row.wishes),
        allow=tuple(row.allow),
        deny=tuple(row.deny),
        max_price_micros=row.max_price_micros or 0,
        max_added_latency_ms=row.max_added_latency_ms,
        fallback=row.fallback,
    )


def _spans(rows: Iterable[Any]) -> dict[str, tuple[PriceSpan, ...]]:
    found: defaultdict[str, list[PriceSpan]] = defaultdict(list)
    for row in sorted(rows, key=lambda each: each.valid_from):
        rates = Rates(
            input_miss_micros=row.input_miss_micros,
            input_hit_micros=row.input_hit_micros,
            egress_micros=row.egress_micros,
            relay_decode_micros=row.relay_decode_micros,
        )
        span = PriceSpan(
            valid_from_ms=_ms(row.valid_from),
            valid_until_ms=_ms(getattr(row, "valid_until", None)),
            rates=rates,
        )
        found[row.model].append(span)
    return {model: tuple(spans) for model, spans in found.items()}


def _ms(moment: dt.datetime | None) -> int:
    return NEVER if moment is None else int(moment.timestamp() * 1000)
