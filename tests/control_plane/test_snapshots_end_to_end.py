"""From a call of the REST API to what a gateway decides, through the real processes' parts."""

import asyncio

import pytest
from control_api import CONTROL
from prefill_control.access.scopes import Scope
from prefill_control.access.secrets import api_key_pepper
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotKeys, SnapshotState
from prefill_wire.status import StatusCode
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client

S = StatusCode
AT_MOST_SECONDS = 5.0  # what a connected gateway is promised


class WatchedFeed(SnapshotFeed):
    """Says when it has looked."""

    looked = None

    async def refresh(self):
        await super().refresh()
        self.looked.set()


class Scene:
    """A control plane that publishes, and a gateway that listens."""

    def __init__(self, api, control, gateway):
        self.api = api
        store = SnapshotStore(control, CONTROL)
        self.publisher = Publisher(api.parts.database, store, lambda: api.now)
        self.state = SnapshotState()
        public = api.settings.control_public_key
        self.feed = WatchedFeed(gateway, public, self.state, CollectorRegistry())
        self.feed.looked = asyncio.Event()
        now_ms = lambda: int(api.now.timestamp() * 1000)  # noqa: E731
        self.keys = SnapshotKeys(self.state, api_key_pepper(api.settings.pepper), now_ms)

    def code(self, secret):
        try:
            key = self.keys.check((("authorization", f"Bearer {secret}"),), "127.0.0.1")
            self.terms = self.keys.terms(key)
        except DataPlaneError as error:
            return error.code
        return S.OK

    async def until(self, secret, code, also=lambda: True):
        async with asyncio.timeout(AT_MOST_SECONDS):
            while self.code(secret) is not code or not also():
                await self.feed.looked.wait()
                self.feed.looked.clear()


@pytest.fixture
async def scene(api, urls, redis_server):
    async with (
        Client.from_url(redis_server.url("control")) as control,
        Client.from_url(redis_server.url("gateway")) as gateway,
    ):
        made = Scene(api, control, gateway)
        tasks = [
            asyncio.create_task(keep_published(made.publisher, urls.app)),
            asyncio.create_task(made.feed.watch()),
        ]
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


TENANT_SCOPES = [scope for scope in Scope if scope is not Scope.PLATFORM]


async def test_a_key_is_let_in_after_it_was_made_and_out_after_it_was_revoked(api, scene):
    caller = await api.caller(scopes=TENANT_SCOPES)
    await scene.until(caller.secret, S.OK)
    admin = await api.caller(caller.tenant_id, TENANT_SCOPES)
    answer = await api.send(admin, "POST", f"/v1/keys/{caller.key_id}/revoke")
    assert answer.status_code == 200
    await scene.until(caller.secret, S.KEY_REVOKED)
    await scene.until(admin.secret, S.OK)


async def test_limits_and_residency_that_are_set_bind_the_gateway(api, scene):
    caller, operator = await api.caller(scopes=TENANT_SCOPES), await api.operator()
    await scene.until(caller.secret, S.OK)
    limits = {"requests_per_second": 5, "requests_burst": 10}
    put = await api.send(caller, "PUT", f"/v1/limits/{caller.key_id}", limits)
    assert put.status_code == 200
    mine = lambda: scene.terms.key_limits is not None  # noqa: E731
    await scene.until(caller.secret, S.OK, mine)
    assert scene.terms.key_limits.requests_burst == 10
    suspend = await api.send(
        operator, "POST", f"/v1/tenants/{caller.tenant_id}/suspend", {"reason": "unpaid"}
    )
    assert suspend.status_code == 200
    await scene.until(caller.secret, S.TENANT_SUSPENDED)
