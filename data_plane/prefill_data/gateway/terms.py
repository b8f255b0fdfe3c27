"""What binds one caller: prices, models, places. Pure; the caller can narrow it, never widen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefill_fleet.snapshot import (
    LimitNumbers,
    ModelEntry,
    PlaceEntry,
    PreferenceEntry,
    PriceSpan,
    Rates,
)
from prefill_wire.identity import ModelIdentity, difference
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.router.choose import DatacenterView, choose_datacenter

NO_PREFERENCE = PreferenceEntry()
NO_LIMITS = LimitNumbers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """`models` or `places` None: there is no catalogue, anything served goes, at the `flat` rate.

    `jurisdictions` empty: the tenant has no residency rule.
    """

    models: Mapping[str, ModelEntry] | None = None
    places: Mapping[str, PlaceEntry] | None = None
    flat: Rates | None = None
    granted: Sequence[str] = ()
    overrides: Mapping[str, Sequence[PriceSpan]]
    preference: PreferenceEntry = NO_PREFERENCE
    jurisdictions: Sequence[str] = ()
    limits: LimitNumbers = NO_LIMITS
    key_limits: LimitNumbers | None = None

    def price_cap_micros(self, asked_micros: int) -> int:
        """The lower of the caller's cap and the tenant's; 0: no cap."""
        caps = [cap for cap in (asked_micros, self.preference.max_price_micros) if cap > 0]
        return min(caps, default=0)


def rates_of(terms: Terms, model: str, now_ms: int) -> Rates:
    """The tenant's own rates at this moment, else the list's; UNKNOWN_MODEL when not for sale.

    A restricted model that was not granted is as unknown as one that does not exist.
    """
    if terms.models is None:
        return terms.flat or Rates(input_miss_micros=0, input_hit_micros=0)
    entry = _offered(terms, terms.models, model)
    span = current_span(terms.overrides.get(model, ()), now_ms)
    span = span or current_span(entry.prices, now_ms)
    if span is None:
        raise DataPlaneError(
            StatusCode.UNKNOWN_MODEL, f"model {model} has no price now", "ask an operator for one"
        )
    return span.rates


def check_model(terms: Terms, asked: ModelIdentity, token_count: int) -> None:
    """MODEL_MISMATCH or PROMPT_TOO_LONG for what the catalogue does not say of the model."""
    if terms.models is None:
        return
    entry = _offered(terms, terms.models, asked.name)
    listed = (entry.fingerprint, entry.tokenizer_fingerprint, entry.numerics_profile)
    if found := difference(asked.parts, listed):
        part, wanted, known = found
        raise DataPlaneError(
            StatusCode.MODEL_MISMATCH,
            f"{asked.name}: {part} {wanted} asked for, {known} in the catalogue",
        )
    if token_count > entry.context_tokens:
        raise DataPlaneError(
            StatusCode.PROMPT_TOO_LONG,
            f"{token_count} tokens, the catalogue allows {asked.name} {entry.context_tokens}",
        )


def codecs_of(terms: Terms, model: str) -> tuple[str, ...]:
    """Those that the model's states may travel by; empty: any."""
    return () if terms.models is None else _offered(terms, terms.models, model).codecs


def _offered(terms: Terms, models: Mapping[str, ModelEntry], model: str) -> ModelEntry:
    entry = models.get(model)
    if entry is None or not entry.active or (entry.restricted and model not in terms.granted):
        raise DataPlaneError(
            StatusCode.UNKNOWN_MODEL, f"model {model[:64]!r} is not offered to this account"
        )
    return entry


def current_span(spans: Sequence[PriceSpan], now_ms: int) -> PriceSpan | None:
    """The span that began last, unless it has ended."""
    begun = [span for span in spans if span.valid_from_ms <= now_ms]
    if not begun:
        return None
    last = max(begun, key=lambda span: span.valid_from_ms)
    return None if 0 < last.valid_until_ms <= now_ms else last


def choose_place(
    terms: Terms,
    views: Sequence[DatacenterView],
    wishes: Sequence[str],
    residency: Sequence[str],
) -> DatacenterView:
    """Where a request goes; NO_DATACENTER says what kept it from each place."""
    reasons = {view.name: place_fault(terms, view) for view in views}
    allowed = [view for view in views if not reasons[view.name]]
    order = order_of(terms, wishes)
    if not terms.preference.fallback and terms.preference.wishes:
        allowed = [view for view in allowed if view.name in terms.preference.wishes]
        reasons |= {v.name: "not among the wishes" for v in views if not reasons[v.name]
                    and v not in allowed}  # fmt: skip
    try:
        return choose_datacenter(allowed, order, residency)
    except DataPlaneError as error:
        told = "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items()) if why)
        if not told:
            raise
        raise DataPlaneError(error.code, f"{error.message} ({told})", error.remedy) from None


def order_of(terms: Terms, wishes: Sequence[str]) -> Sequence[str]:
    """The request's wishes, or the account's where it has none."""
    return wishes or terms.preference.wishes


def place_fault(terms: Terms, view: DatacenterView) -> str:
    """Why the tenant's requests may not go there; empty when they may."""
    wish, place = terms.preference, (terms.places or {}).get(view.name)
    if terms.places is not None and place is None:
        return "not in the catalogue"
    if place is not None and not place.active:
        return "takes no new requests"
    if terms.jurisdictions and (place is None or place.jurisdiction not in terms.jurisdictions):
        return f"outside {', '.join(terms.jurisdictions)}"
    if view.name in wish.deny or (wish.allow and view.name not in wish.allow):
        return "excluded by the account's preference"
    if wish.max_added_latency_ms is not None and view.rtt_ms > wish.max_added_latency_ms:
        return f"{view.rtt_ms:.0f} ms away, at most {wish.max_added_latency_ms} are wished"
    return ""


def flat_terms(micros_per_million_tokens: int) -> Terms:
    """Without a control plane: one rate for everybody, no rule."""
    rate = micros_per_million_tokens
    return Terms(flat=Rates(input_miss_micros=rate, input_hit_micros=rate), overrides={})
