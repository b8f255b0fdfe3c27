"""A control plane's store and a gateway's reader beside it, for tests."""

import asyncio
import hashlib
import hmac

from prefill_control.snapshots.store import SnapshotStore
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotKeys, SnapshotState
from prefill_fleet.snapshot import (
    VALID_MS,
    Beat,
    KeyEntry,
    LimitNumbers,
    PreferenceEntry,
    Roll,
    TenantEntry,
    digest_of,
    encode_part,
)
from prefill_wire.signing import SigningKey
from prefill_wire.status import StatusCode
from prometheus_client import CollectorRegistry

S = StatusCode
CONTROL, STRANGER = SigningKey.from_seed(b"c" * 32), SigningKey.from_seed(b"x" * 32)
PEPPER, SECRET = b"p" * 32, "pck_secret_of_acme"
START_MS = 1_000_000


def proof(secret):
    return hmac.new(PEPPER, secret.encode(), hashlib.sha256).hexdigest()


def key(**changes):
    fields = {"key_id": "key_a", "proof": proof(SECRET), "revoked": False, "expires_at_ms": 0,
              "may_prefill": True, "addresses": ()}  # fmt: skip
    return KeyEntry(**{**fields, **changes})


def entry(tenant="acme", keys=None, **changes):
    fields = {"state": "active", "keys": (key(),) if keys is None else keys,
              "limits": LimitNumbers(), "preference": PreferenceEntry(), "jurisdictions": (),
              "granted_models": (), "overrides": {}}  # fmt: skip
    return TenantEntry(tenant=tenant, **{**fields, **changes})


class WatchedFeed(SnapshotFeed):
    """Says when it has looked."""

    looked = None

    async def refresh(self):
        await super().refresh()
        if self.looked is not None:
            self.looked.set()


class Scene:
    """A control plane that is a store with a key, and a gateway's reader beside it."""

    def __init__(self, control, gateway):
        self.client, self.version, self.now_ms = control, 0, START_MS
        self.store = SnapshotStore(control, CONTROL)
        self.restart(gateway)

    def restart(self, gateway):
        self.state = SnapshotState()
        self.registry = CollectorRegistry()
        self.feed = WatchedFeed(gateway, CONTROL.public_bytes, self.state, self.registry)
        self.keys = SnapshotKeys(self.state, PEPPER, lambda: self.now_ms)

    def beat(self, digest):
        self.version += 1
        return Beat(version=self.version, issued_at_ms=self.now_ms,
                    valid_until_ms=self.now_ms + VALID_MS, roll_digest=digest)  # fmt: skip

    async def publish(self, *entries, store=None):
        parts = {each.tenant: encode_part(each) for each in entries}
        digests = {tenant: digest_of(data) for tenant, data in parts.items()}
        roll = encode_part(Roll(places=(), models=(), tenants=digests))
        self.last = self.beat(digest_of(roll))
        await (store or self.store).write(self.last, roll, parts)

    async def refresh(self):
        await self.feed.refresh()
        return self.state.version

    async def until(self, code):
        """Until the watching feed has brought this about."""
        self.feed.looked = asyncio.Event()
        async with asyncio.timeout(20):
            while self.code() is not code:
                await self.feed.looked.wait()
                self.feed.looked.clear()

    def code(self, secret=SECRET, address="10.0.0.1"):
        """What a check comes to."""
        try:
            self.keys.check((("authorization", f"Bearer {secret}"),), address)
        except DataPlaneError as error:
            return error.code
        return S.OK

    @property
    def refused(self):
        return self.registry.get_sample_value("prefill_gateway_snapshots_refused_total")
