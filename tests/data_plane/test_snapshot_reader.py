"""A gateway follows the control plane within seconds, believes nothing else, and stops at 60 s."""

import asyncio
import hashlib
import hmac

import pytest
from prefill_control.snapshots.store import SnapshotStore
from prefill_data.errors import DataPlaneError
from prefill_data.gateway import snapshot_feed
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotKeys, SnapshotState
from prefill_data.redis_client import connect
from prefill_fleet.names import BEAT_KEY, ROLL_KEY, tenant_key
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
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.signing import SigningKey
from prefill_wire.status import StatusCode
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client

S = StatusCode
CONTROL, STRANGER = SigningKey.from_seed(b"c" * 32), SigningKey.from_seed(b"x" * 32)
PEPPER, SECRET = b"p" * 32, "pck_secret_of_acme"
START_MS = 1_000_000


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    server = Redis(RedisPlan(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.destroy()


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


@pytest.fixture
async def scene(redis_server):
    control = Client.from_url(redis_server.url("control"))
    gateway = Client.from_url(redis_server.url("gateway"))
    async for name in control.scan_iter("prefill:*"):
        await control.delete(name)
    yield Scene(control, gateway)
    await control.aclose()
    await gateway.aclose()


async def test_before_anything_came_nobody_gets_in_and_nobody_is_called_unknown(scene):
    await scene.refresh()
    assert scene.code() is S.NETWORK_UNAVAILABLE


async def test_a_published_key_gets_in_and_a_revoked_one_does_not(scene):
    await scene.publish(entry())
    await scene.refresh()
    assert scene.code() is S.OK
    assert scene.code("pck_other") is S.KEY_NOT_FOUND
    await scene.publish(entry(keys=(key(revoked=True),)))
    await scene.refresh()
    assert scene.code() is S.KEY_REVOKED


@pytest.mark.parametrize(
    ("changes", "tenant", "code"),
    [
        ({"expires_at_ms": START_MS}, {}, S.KEY_EXPIRED),
        ({"expires_at_ms": START_MS + 1}, {}, S.OK),
        ({"may_prefill": False}, {}, S.PERMISSION_DENIED),
        ({"addresses": ("192.168.0.0/16",)}, {}, S.PERMISSION_DENIED),
        ({"addresses": ("10.0.0.0/8",)}, {}, S.OK),
        ({}, {"state": "suspended"}, S.TENANT_SUSPENDED),
        ({}, {"state": "closed"}, S.KEY_REVOKED),
        ({"revoked": True}, {"state": "suspended"}, S.KEY_REVOKED),
    ],
)
async def test_every_status_of_a_key(scene, changes, tenant, code):
    await scene.publish(entry(keys=(key(**changes),), **tenant))
    await scene.refresh()
    assert scene.code() is code


async def test_partitioned_entries_hold_for_sixty_seconds_and_no_longer(scene):
    await scene.publish(entry())
    await scene.refresh()
    scene.now_ms += VALID_MS - 1
    assert scene.code() is S.OK
    scene.now_ms += 1
    assert scene.code() is S.NETWORK_UNAVAILABLE
    assert scene.code("pck_other") is S.NETWORK_UNAVAILABLE  # nobody knows
    await scene.store.renew(scene.beat(scene.last.roll_digest))
    await scene.refresh()
    assert scene.code() is S.OK


async def test_an_older_beat_is_refused_and_the_last_good_one_stays(scene):
    await scene.publish(entry())
    old = {name: await scene.client.get(name)
           for name in (BEAT_KEY, ROLL_KEY, tenant_key("acme"))}  # fmt: skip
    await scene.publish(entry(keys=()))
    await scene.refresh()
    for name, value in old.items():
        await scene.client.set(name, value)
    assert await scene.refresh() == scene.version
    assert scene.code() is S.KEY_NOT_FOUND
    assert scene.refused == 1


async def test_a_strangers_beat_is_refused(scene):
    await scene.publish(entry())
    await scene.refresh()
    await scene.publish(entry(keys=()), store=SnapshotStore(scene.client, STRANGER))
    assert await scene.refresh() == 1
    assert scene.code() is S.OK
    assert scene.refused == 1


@pytest.mark.parametrize("name", [BEAT_KEY, ROLL_KEY])
@pytest.mark.parametrize("junk", [b"\x00", b"junk" * 3000, b"\x81" * 50])
async def test_junk_in_any_place_changes_nothing(scene, name, junk):
    await scene.publish(entry())
    await scene.refresh()
    await scene.publish(entry(keys=()))
    await scene.client.set(name, junk)
    assert await scene.refresh() == 1
    assert scene.code() is S.OK


async def test_a_forged_entry_holds_up_its_own_tenant_alone_and_not_for_ever(scene):
    await scene.publish(entry(), entry("bolt", keys=()))
    await scene.refresh()
    first_until_ms = scene.last.valid_until_ms
    scene.now_ms += 30_000
    revoked = entry("bolt", keys=(key(key_id="key_b", proof=proof("pck_b")),))
    await scene.publish(entry(keys=(key(revoked=True),)), revoked)
    await scene.client.set(tenant_key("acme"), encode_part(entry()))  # the old one, played back
    await scene.refresh()
    assert scene.code() is S.OK  # still the entry that was genuine
    assert scene.code("pck_b") is S.OK  # others move on
    scene.now_ms = first_until_ms
    assert scene.code() is S.NETWORK_UNAVAILABLE
    assert scene.code("pck_b") is S.OK
    await scene.publish(entry(keys=(key(revoked=True),)), revoked)
    await scene.refresh()
    assert scene.code() is S.KEY_REVOKED


async def test_a_tenant_that_is_no_longer_on_the_roll_is_gone(scene):
    await scene.publish(entry(), entry("bolt", keys=()))
    await scene.refresh()
    await scene.publish(entry("bolt", keys=()))
    await scene.refresh()
    assert scene.code() is S.KEY_NOT_FOUND


async def test_another_tenants_entry_is_no_entry(scene):
    parts = {"acme": encode_part(entry("bolt"))}
    roll = encode_part(Roll(places=(), models=(), tenants={"acme": digest_of(parts["acme"])}))
    await scene.store.write(scene.beat(digest_of(roll)), roll, parts)
    await scene.refresh()
    assert scene.code() is S.KEY_NOT_FOUND
    assert scene.refused == 1


async def test_the_limits_of_the_key_come_with_the_terms(scene):
    mine = LimitNumbers(requests_per_second=5)
    await scene.publish(entry(keys=(key(limits=mine),), limits=LimitNumbers(concurrency=3)))
    await scene.refresh()
    found = scene.keys.check((("authorization", f"Bearer {SECRET}"),), "10.0.0.1")
    terms = scene.keys.terms(found)
    assert (terms.limits.concurrency, terms.key_limits) == (3, mine)


async def test_a_word_on_the_channel_is_enough(scene, monkeypatch):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 3600)
    await scene.publish(entry())
    watching = asyncio.create_task(scene.feed.watch())
    await scene.until(S.OK)
    await scene.publish(entry(keys=(key(revoked=True),)))
    await scene.until(S.KEY_REVOKED)
    watching.cancel()


async def test_the_watch_outlives_a_redis_that_goes_and_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 0.01)
    server = Redis(RedisPlan(tmp_path / "own"))
    server.start()
    async with connect(server.url("gateway")) as gateway:  # a gateway's own: it waits for nothing
        async with Client.from_url(server.url("control")) as control:
            scene = Scene(control, gateway)
            await scene.publish(entry())
            watching = asyncio.create_task(scene.feed.watch())
            await scene.until(S.OK)
        await asyncio.to_thread(server.stop)
        assert scene.code() is S.OK
        await asyncio.to_thread(server.start)
        async with Client.from_url(server.url("control")) as control:
            scene.store = SnapshotStore(control, CONTROL)
            await scene.publish(entry(keys=(key(revoked=True),)))
            await scene.until(S.KEY_REVOKED)
        watching.cancel()
    await asyncio.to_thread(server.destroy)
