"""Who may prefill what at which price, as the control plane tells gateways.

A beat is the only signed part: small, renewed every two seconds, numbered upwards for ever. It
names the roll by its digest, and the roll names every tenant's entry by its digest. So a signature
holds for everything at once, an old entry cannot be played back beside new ones, and to renew the
validity of ten thousand tenants costs one signature.
"""

from __future__ import annotations

from blake3 import blake3
from prefill_wire.errors import IntegrityError
from prefill_wire.signing import SigningKey

from prefill_fleet.documents import Document, decode, encode, open_signed, sign

FORM = 2  # 2: a model's identity, context and codecs
MAX_BEAT_BYTES = 4 << 10
MAX_ROLL_BYTES = 32 << 20  # 100,000 tenants have about 7 MB
MAX_TENANT_BYTES = 8 << 20  # 10,000 keys have about 3 MB
VALID_MS = 60_000  # of a partitioned gateway: entries are valid 60 s, then refused
_DOMAIN = "fleet beat"


class Beat(Document, frozen=True, kw_only=True):
    """`version` rises with every beat; times are Unix milliseconds."""

    form: int = FORM
    version: int
    issued_at_ms: int
    valid_until_ms: int
    roll_digest: bytes


class Rates(Document, frozen=True, kw_only=True):
    """Integer micros per million tokens."""

    input_miss_micros: int
    input_hit_micros: int
    egress_micros: int = 0
    relay_decode_micros: int = 0


class PriceSpan(Document, frozen=True, kw_only=True):
    """Rates from a moment on, until another (0: until the next span begins)."""

    valid_from_ms: int
    valid_until_ms: int = 0
    rates: Rates


class ModelEntry(Document, frozen=True, kw_only=True):
    """A model of the catalogue; `restricted`: only tenants that it is granted to may ask for it.

    Fingerprints are hex. `codecs`: those that its states may travel by; empty: any.
    """

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    numerics_profile: str
    context_tokens: int
    codecs: tuple[str, ...]
    active: bool
    restricted: bool
    prices: tuple[PriceSpan, ...]


class PlaceEntry(Document, frozen=True, kw_only=True):
    """A datacenter of the catalogue; only an active one takes new requests."""

    name: str
    jurisdiction: str
    active: bool


class Roll(Document, frozen=True, kw_only=True):
    """The catalogue, and the digest of every tenant's entry."""

    places: tuple[PlaceEntry, ...]
    models: tuple[ModelEntry, ...]
    tenants: dict[str, bytes]


class LimitNumbers(Document, frozen=True, kw_only=True):
    """Absent: no such limit. Rates a second with their bursts; quotas in tokens a period."""

    requests_per_second: int | None = None
    requests_burst: int | None = None
    tokens_per_second: int | None = None
    tokens_burst: int | None = None
    concurrency: int | None = None
    day_tokens_soft: int | None = None
    day_tokens_hard: int | None = None
    month_tokens_soft: int | None = None
    month_tokens_hard: int | None = None


class KeyEntry(Document, frozen=True, kw_only=True):
    """One key. `proof` is the HMAC-SHA256 (hex) of its secret; `expires_at_ms` 0 means never."""

    key_id: str
    proof: str
    revoked: bool
    expires_at_ms: int
    may_prefill: bool
    addresses: tuple[str, ...]
    limits: LimitNumbers | None = None


class PreferenceEntry(Document, frozen=True, kw_only=True):
    """What the tenant wishes about datacenters: an order, a filter, caps (0: none)."""

    wishes: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_price_micros: int = 0
    max_added_latency_ms: int | None = None
    fallback: bool = True


class TenantEntry(Document, frozen=True, kw_only=True):
    """Everything that a gateway decides by for one tenant. `jurisdictions` empty: no rule."""

    tenant: str
    state: str
    keys: tuple[KeyEntry, ...]
    limits: LimitNumbers
    preference: PreferenceEntry
    jurisdictions: tuple[str, ...]
    granted_models: tuple[str, ...]
    overrides: dict[str, tuple[PriceSpan, ...]]


def digest_of(data: bytes) -> bytes:
    """The name of a part: BLAKE3, 32 bytes."""
    return blake3(data).digest()


def encode_part(part: Roll | TenantEntry) -> bytes:
    """A part as it is stored; its digest names it."""
    return encode(part)


def open_roll(data: bytes, digest: bytes) -> Roll:
    """The roll that a beat names; IntegrityError for any other bytes."""
    _check(data, digest, "roll")
    return decode(data, Roll, MAX_ROLL_BYTES)


def open_tenant(data: bytes, tenant: str, digest: bytes) -> TenantEntry:
    """The entry that a roll names; IntegrityError for any other bytes."""
    _check(data, digest, f"entry of {tenant}")
    entry = decode(data, TenantEntry, MAX_TENANT_BYTES)
    if entry.tenant != tenant:
        raise IntegrityError(f"the entry of {tenant} is that of {entry.tenant}")
    return entry


def sign_beat(key: SigningKey, beat: Beat) -> bytes:
    """Signed with the control plane's key."""
    return sign(key, _DOMAIN, beat)


def open_beat(control_public: bytes, signed: bytes) -> Beat:
    """The beat when the control plane signed it; its time is the reader's to judge."""
    beat = open_signed(control_public, _DOMAIN, signed, Beat, MAX_BEAT_BYTES)
    if beat.form != FORM:
        raise IntegrityError(f"a beat of form {beat.form}, this process reads {FORM}")
    return beat


def _check(data: bytes, digest: bytes, what: str) -> None:
    if digest_of(data) != digest:
        raise IntegrityError(f"the {what} of {len(data)} bytes has another digest than was signed")
