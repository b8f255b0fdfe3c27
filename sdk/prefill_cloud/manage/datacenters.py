"""Datacenters, an account's ordered wish among them, and its hard rule of residency."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec

from prefill_cloud.manage.calls import (
    Call,
    Rows,
    View,
    changing,
    doing,
    listing,
    part_of,
    reading,
    with_name,
)
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class DatacenterValues(View, frozen=True, kw_only=True):
    """What is chosen of a datacenter; `accelerators` counts devices by kind."""

    jurisdiction: str
    endpoint: str
    place: str = ""
    models: Sequence[str] = ()
    accelerators: Mapping[str, int] = msgspec.field(default_factory=dict)
    rtt_ms: int = 0
    egress_mbps: int = 10_000


class Datacenter(DatacenterValues, frozen=True, kw_only=True):
    """A datacenter; `state` is active, cordoned or draining."""

    name: str
    state: str
    created_at: dt.datetime
    version: int

    def values(self) -> DatacenterValues:
        """What `update` takes."""
        return part_of(DatacenterValues, self)


class PreferenceValues(View, frozen=True, kw_only=True):
    """An ordered wish; an empty `allow` allows every datacenter, None is no cap."""

    wishes: Sequence[str] = ()
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    max_price_micros: int | None = None
    max_added_latency_ms: int | None = None
    fallback: bool = True


class Preference(PreferenceValues, frozen=True, kw_only=True):
    """An account's wish; version 0 when it never set any."""

    tenant_id: str
    version: int

    def values(self) -> PreferenceValues:
        """What `put` takes."""
        return part_of(PreferenceValues, self)


class Residency(View, frozen=True, kw_only=True):
    """Jurisdictions that nothing of the account may leave (none: no rule)."""

    tenant_id: str
    jurisdictions: Sequence[str]
    version: int


class Datacenters(Noun[M]):
    """`client.datacenters`; changing them is for operators."""

    @verb("createDatacenter")
    def create(
        self, name: str, values: DatacenterValues, *, idempotency_key: str = ""
    ) -> Call[Datacenter]:
        """Add a datacenter; it is active at once."""
        return doing(Datacenter, with_name(name, values), "datacenters", key=idempotency_key)

    @list_verb("listDatacenters")
    def list(self, *, jurisdiction: str = "") -> Rows[Datacenter]:
        """The catalogue."""
        return listing(Datacenter, "datacenters", {"jurisdiction": jurisdiction})

    @verb("readDatacenter")
    def read(self, name: str) -> Call[Datacenter]:
        """Read a datacenter."""
        return reading(Datacenter, "datacenters", name)

    @verb("updateDatacenter")
    def update(self, name: str, values: DatacenterValues, *, version: int) -> Call[Datacenter]:
        """Replace everything but name and state."""
        return changing(Datacenter, values, "datacenters", name, version=version)

    @verb("cordonDatacenter")
    def cordon(self, name: str) -> Call[Datacenter]:
        """Take no new requests; what runs ends as it would."""
        return doing(Datacenter, {}, "datacenters", name, "cordon")

    @verb("uncordonDatacenter")
    def uncordon(self, name: str) -> Call[Datacenter]:
        """Take new requests again."""
        return doing(Datacenter, {}, "datacenters", name, "uncordon")

    @verb("drainDatacenter")
    def drain(self, name: str) -> Call[Datacenter]:
        """Take no new requests and give up caches, before maintenance."""
        return doing(Datacenter, {}, "datacenters", name, "drain")

    @verb("undrainDatacenter")
    def undrain(self, name: str) -> Call[Datacenter]:
        """Back to work after draining."""
        return doing(Datacenter, {}, "datacenters", name, "undrain")


class Preferences(Noun[M]):
    """`client.preferences`: an account's wish among datacenters."""

    @verb("readDatacenterPreference")
    def read(self, tenant_id: str) -> Call[Preference]:
        """Read the wish."""
        return reading(Preference, "tenants", tenant_id, "datacenter-preference")

    @verb("putDatacenterPreference")
    def put(self, tenant_id: str, values: PreferenceValues, *, version: int) -> Call[Preference]:
        """Replace the wish."""
        parts = ("tenants", tenant_id, "datacenter-preference")
        return changing(Preference, values, *parts, version=version)


class Residencies(Noun[M]):
    """`client.residency`: an account's hard rule."""

    @verb("readResidency")
    def read(self, tenant_id: str) -> Call[Residency]:
        """Read the rule."""
        return reading(Residency, "tenants", tenant_id, "residency")

    @verb("putResidency")
    def put(self, tenant_id: str, jurisdictions: Sequence[str], *, version: int) -> Call[Residency]:
        """Replace the rule; what cannot be met is refused from then on, never rerouted."""
        body = {"jurisdictions": jurisdictions}
        return changing(Residency, body, "tenants", tenant_id, "residency", version=version)
