"""Keys and terms from the control plane's snapshots: the last good one, for as long as it holds."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from prefill_fleet.snapshot import (
    Beat,
    KeyEntry,
    ModelEntry,
    PlaceEntry,
    Roll,
    TenantEntry,
    open_beat,
    open_tenant,
)
from prefill_wire.errors import IntegrityError, WireError
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.callers import Metadata, address_within
from prefill_data.gateway.keys import CODES, MAX_SECRET_BYTES, ApiKey, KeyStatus
from prefill_data.gateway.terms import Terms

log = structlog.get_logger()
RETRY_MS = 2000


@dataclass(slots=True)
class SnapshotState:
    """What the control plane said last. `behind`: tenants whose newest entry did not come whole,
    with the time until which their old one holds (Unix ms)."""

    beat: Beat | None = None
    roll: Roll | None = None
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    places: Mapping[str, PlaceEntry] = field(default_factory=dict)
    entries: dict[str, TenantEntry] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    by_proof: dict[str, tuple[str, KeyEntry]] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """0 before anything came."""
        return self.beat.version if self.beat is not None else 0

    def accept_beat(self, control_public: bytes, signed: bytes) -> Beat:
        """The beat when it is genuine and not older than the one held."""
        beat = open_beat(control_public, signed)
        if beat.version < self.version:
            raise IntegrityError(f"beat {beat.version} was rolled back from {self.version}")
        return beat

    def missing(self, roll: Roll) -> list[str]:
        """Tenants whose entry in `roll` is not the one held."""
        return [t for t, digest in roll.tenants.items() if self.digests.get(t) != digest]

    def advance(self, beat: Beat, roll: Roll, parts: Mapping[str, bytes]) -> list[WireError]:
        """Take over a new roll with the entries that came; those that do not fit stay behind."""
        held_until_ms = self.beat.valid_until_ms if self.beat is not None else 0
        faults: list[WireError] = []
        behind: dict[str, int] = {}
        for tenant in [known for known in self.entries if known not in roll.tenants]:
            self._drop(tenant)
        for tenant in self.missing(roll):
            try:
                data = parts.get(tenant, b"")
                entry = open_tenant(data, tenant, roll.tenants[tenant])
            except WireError as error:
                faults.append(error)
                behind[tenant] = self.behind.get(tenant, held_until_ms)
                continue
            self._drop(tenant)
            self._keep(entry, roll.tenants[tenant])
        self.beat, self.roll, self.behind = beat, roll, behind
        self.models = {model.name: model for model in roll.models}
        self.places = {place.name: place for place in roll.places}
        return faults

    def roll_of(self, beat: Beat) -> Roll | None:
        """The roll held, when it is the one that this beat names."""
        held = self.beat
        return self.roll if held is not None and held.roll_digest == beat.roll_digest else None

    def renew(self, beat: Beat) -> None:
        """The same content holds for longer."""
        self.beat = beat

    def valid_until_ms(self, tenant: str | None) -> int:
        """Until when a tenant's entry may be used; None asks for the roll itself."""
        if self.beat is None:
            return 0
        return min(self.beat.valid_until_ms, self.behind.get(tenant or "", 1 << 62))

    def _keep(self, entry: TenantEntry, digest: bytes) -> None:
        self.entries[entry.tenant], self.digests[entry.tenant] = entry, digest
        for key in entry.keys:
            self.by_proof[key.proof] = (entry.tenant, key)

    def _drop(self, tenant: str) -> None:
        entry = self.entries.pop(tenant, None)
        self.digests.pop(tenant, None)
        for key in entry.keys if entry is not None else ():
            self.by_proof.pop(key.proof, None)


class SnapshotKeys:
    """A `KeySource` over a state that somebody else keeps up to date."""

    def __init__(self, state: SnapshotState, pepper: bytes, now_ms: Callable[[], int]) -> None:
        self._state, self._pepper, self._now_ms = state, pepper, now_ms

    def check(self, metadata: Metadata, address: str) -> ApiKey:
        """The caller's key; NETWORK_UNAVAILABLE once what is known of it is too old."""
        found = self._find(metadata)
        tenant, key = found if found is not None else (None, None)
        self._refuse_stale(tenant)
        if tenant is None or key is None:
            raise self._unknown()
        status = key_status(key, self._state.entries[tenant].state, self._now_ms())
        if status is not KeyStatus.VALID:
            words = status.lower().replace("_", " ")
            raise DataPlaneError(CODES[status], f"API key {key.key_id}: {words}")
        refuse_forbidden(key, address)
        return ApiKey(key.key_id, tenant, key.proof, status, key.expires_at_ms)

    def terms(self, key: ApiKey) -> Terms:
        """The tenant's terms; KEY_NOT_FOUND when the key went since it was checked."""
        entry, state = self._state.entries.get(key.tenant), self._state
        known = state.by_proof.get(key.sha256)
        if entry is None or known is None:  # it went meanwhile, and its own limits with it
            raise self._unknown()
        return Terms(
            models=state.models,
            places=state.places,
            granted=entry.granted_models,
            overrides=entry.overrides,
            preference=entry.preference,
            jurisdictions=entry.jurisdictions,
            limits=entry.limits,
            key_limits=known[1].limits,
        )

    def _find(self, metadata: Metadata) -> tuple[str, KeyEntry] | None:
        shown = dict(metadata).get("authorization", "")
        scheme, _, secret = (shown if isinstance(shown, str) else "").partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(secret) <= MAX_SECRET_BYTES:
            return None
        proof = hmac.new(self._pepper, secret.encode(), hashlib.sha256).hexdigest()
        return self._state.by_proof.get(proof)

    def _refuse_stale(self, tenant: str | None) -> None:
        """Nobody knows whether a key still holds: neither yes nor "not found" would be true."""
        over_ms = self._now_ms() - self._state.valid_until_ms(tenant)
        if over_ms >= 0:
            raise _unheard("this gateway has not heard from the control plane for too long")

    def _unknown(self) -> DataPlaneError:
        """A key that is on no entry; it may be on one that did not come whole."""
        if self._state.behind:
            return _unheard("this gateway has not heard of every key")
        return DataPlaneError(CODES[KeyStatus.NOT_FOUND], "the API key: not found")


def _unheard(words: str) -> DataPlaneError:
    remedy = "try again shortly, or prefill locally"
    return DataPlaneError(StatusCode.NETWORK_UNAVAILABLE, words, remedy, RETRY_MS)


def key_status(key: KeyEntry, tenant_state: str, now_ms: int) -> KeyStatus:
    """Pure: the first reason against a key."""
    if key.revoked or tenant_state == "closed":
        return KeyStatus.REVOKED
    if 0 < key.expires_at_ms <= now_ms:
        return KeyStatus.EXPIRED
    return KeyStatus.VALID if tenant_state == "active" else KeyStatus.TENANT_SUSPENDED


def refuse_forbidden(key: KeyEntry, address: str) -> None:
    """PERMISSION_DENIED for a key that may not prefill, or not from there."""
    if not key.may_prefill:
        raise DataPlaneError(
            StatusCode.PERMISSION_DENIED, f"API key {key.key_id} lacks the scope prefill"
        )
    if key.addresses and not address_within(address, key.addresses):
        raise DataPlaneError(
            StatusCode.PERMISSION_DENIED,
            f"API key {key.key_id} may not be used from this address",
            "call from an address of the key's allow-list",
        )
