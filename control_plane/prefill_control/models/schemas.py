"""What is said about models, prices and quotes over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from prefill_wire.codecs import Codec

from prefill_control.models.models import RATES, Model, ModelGrant, Price, PriceOverride
from prefill_control.models.prices import PriceDraft, Quote
from prefill_control.models.service import ModelDraft
from prefill_control.web.schemas import CURRENCY, Currency, Input, Slug, Zoned, priced

Digest = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f]{64}$",
        description="64 digits of 0-9 and a-f.",
        examples=["ab" * 32],
    ),
]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Context = Annotated[int, msgspec.Meta(ge=2, le=1 << 20)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=10**12, examples=[250_000])]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
CodecName = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^({'|'.join(codec.wire_name for codec in Codec)})$",
        description=f"One of {', '.join(codec.wire_name for codec in Codec)}.",
        examples=[Codec.RAW.wire_name],
    ),
]
CodecNames = Annotated[
    list[CodecName],
    msgspec.Meta(max_length=16, description="What states may travel by; none named: any."),
]


class ModelChange(Input):
    """Everything of a model but its name and state."""

    fingerprint: Digest
    tokenizer_fingerprint: Digest
    numerics_profile: Slug
    context_tokens: Context
    codecs: CodecNames = msgspec.field(default_factory=list)
    restricted: bool = False

    def draft(self) -> ModelDraft:
        """For the service."""
        return ModelDraft(**{name: getattr(self, name) for name in ModelDraft.__slots__})


class ModelInput(ModelChange, kw_only=True):
    """A model to be."""

    name: Slug


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model."""

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    numerics_profile: str
    context_tokens: int
    codecs: list[str]
    restricted: bool
    state: str
    created_at: dt.datetime
    version: int

    @classmethod
    def of(cls, row: Model) -> ModelView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class PriceInput(Input):
    """Integer micros per million tokens (egress: per million bytes)."""

    model: Slug
    valid_from: Zoned
    input_miss_micros: Micros
    input_hit_micros: Micros
    egress_micros: Micros = 0
    relay_decode_micros: Micros = 0

    def draft(self, valid_until: dt.datetime | None = None) -> PriceDraft:
        """For the service."""
        return PriceDraft(
            model=self.model,
            valid_from=self.valid_from,
            rates={name: getattr(self, name) for name in RATES},
            valid_until=valid_until,
        )


class OverrideInput(PriceInput):
    """A tenant's own prices, for a time or until the next."""

    valid_until: Zoned | None = None


class PriceView(msgspec.Struct, frozen=True, kw_only=True):
    """A list price."""

    id: str
    model: str
    valid_from: dt.datetime
    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int
    relay_decode_micros: int
    currency: Currency
    created_at: dt.datetime

    @classmethod
    def of(cls, row: Price) -> PriceView:
        """From its row."""
        return priced(cls, row)


class OverrideView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's own price."""

    id: str
    tenant_id: str
    model: str
    valid_from: dt.datetime
    valid_until: dt.datetime | None
    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int
    relay_decode_micros: int
    currency: Currency
    created_at: dt.datetime

    @classmethod
    def of(cls, row: PriceOverride) -> OverrideView:
        """From its row."""
        return priced(cls, row)


class GrantInput(Input):
    """The model that a tenant may use."""

    model: Slug


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant on a model's allow-list."""

    id: str
    tenant_id: str
    model: str
    created_at: dt.datetime

    @classmethod
    def of(cls, row: ModelGrant) -> GrantView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class QuoteInput(Input):
    """A request that is only asked about."""

    model: Slug
    token_count: Tokens
    cached_tokens: Tokens = 0
    egress_bytes: Bytes = 0
    relay_decode_tokens: Tokens = 0


class QuoteView(msgspec.Struct, frozen=True, kw_only=True):
    """What it costs now: with the cache hit, and at most."""

    amount_micros: int
    bound_micros: int
    currency: Currency
    source: str
    valid_from: dt.datetime
    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int
    relay_decode_micros: int

    @classmethod
    def of(cls, quote: Quote) -> QuoteView:
        """From the service's answer."""
        terms = {name: getattr(quote.terms, name) for name in (*RATES, "source", "valid_from")}
        return cls(
            amount_micros=quote.amount_micros,
            bound_micros=quote.bound_micros,
            currency=CURRENCY,
            **terms,
        )
