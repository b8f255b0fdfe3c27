"""What is said about datacenters, wishes, rules and routes over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

from prefill_control.datacenters.decision import Outcome, Route
from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.datacenters.service import DatacenterDraft
from prefill_control.web.schemas import Amount, Input, Name, Slug, Text

Jurisdiction = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Z]{2,3}$",
        description="Two or three capital letters, such as EU.",
        examples=["EU", "US"],
    ),
]
Endpoint = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9._:\[\]-]{1,250}:[0-9]{1,5}$",
        description="A host, a colon and a port, such as gw.eu:443 or [::1]:443.",
        examples=["gw.eu:443"],
    ),
]
Slugs = Annotated[list[Slug], msgspec.Meta(max_length=64)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=60_000)]
Mbps = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Accelerators = Annotated[dict[Slug, Annotated[int, msgspec.Meta(ge=0, le=10**6)]],
                         msgspec.Meta(max_length=32)]  # fmt: skip


class DatacenterChange(Input):
    """Everything of a datacenter but its name and state."""

    jurisdiction: Jurisdiction
    endpoint: Endpoint
    place: Text = ""
    models: Slugs = msgspec.field(default_factory=list)
    accelerators: Accelerators = msgspec.field(default_factory=dict)
    rtt_ms: Milliseconds = 0
    egress_mbps: Mbps = 10_000

    def draft(self) -> DatacenterDraft:
        """For the service."""
        names = DatacenterDraft.__slots__
        return DatacenterDraft(**{name: getattr(self, name) for name in names})


class DatacenterInput(DatacenterChange, kw_only=True):
    """A datacenter to be."""

    name: Slug


class DatacenterView(msgspec.Struct, frozen=True, kw_only=True):
    """A datacenter."""

    name: str
    jurisdiction: str
    place: str
    endpoint: str
    models: list[str]
    accelerators: dict[str, int]
    rtt_ms: int
    egress_mbps: int
    state: str
    created_at: dt.datetime
    version: int

    @classmethod
    def of(cls, row: Datacenter) -> DatacenterView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class PreferenceInput(Input):
    """An ordered wish: empty `allow` allows every datacenter."""

    wishes: Slugs = msgspec.field(default_factory=list)
    allow: Slugs = msgspec.field(default_factory=list)
    deny: Slugs = msgspec.field(default_factory=list)
    max_price_micros: Amount | None = None
    max_added_latency_ms: Milliseconds | None = None
    fallback: bool = True


class PreferenceView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's preference; version 0 when it never set any."""

    tenant_id: str
    wishes: list[str]
    allow: list[str]
    deny: list[str]
    max_price_micros: int | None
    max_added_latency_ms: int | None
    fallback: bool
    version: int

    @classmethod
    def of(cls, row: DatacenterPreference) -> PreferenceView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class ResidencyInput(Input):
    """Jurisdictions that nothing of the tenant may leave; none: no rule."""

    jurisdictions: Annotated[list[Jurisdiction], msgspec.Meta(max_length=32)]


class ResidencyView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's residency rule; version 0 when it never set any."""

    tenant_id: str
    jurisdictions: list[str]
    version: int

    @classmethod
    def of(cls, row: Residency) -> ResidencyView:
        """From its row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class RouteInput(Input):
    """A request that is only asked about. No prompt: its length decides."""

    model: Slug
    token_count: Tokens
    local_prefix_tokens: Tokens = 0
    datacenters: Slugs = msgspec.field(default_factory=list)
    residency: Annotated[list[Jurisdiction], msgspec.Meta(max_length=32)] = msgspec.field(
        default_factory=list
    )


class StepView(msgspec.Struct, frozen=True):
    """One rule: who was left after it, who fell by it."""

    rule: str
    kept: list[Name]
    dropped: list[Name]
    reason: str


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the request would go, and why, step by step."""

    outcome: Outcome
    datacenter: str
    reason: str
    steps: list[StepView]

    @classmethod
    def of(cls, route: Route) -> RouteView:
        """From the decision."""
        steps = [StepView(s.rule, list(s.kept), list(s.dropped), s.reason) for s in route.steps]
        return cls(
            outcome=route.outcome, datacenter=route.datacenter, reason=route.reason, steps=steps
        )
