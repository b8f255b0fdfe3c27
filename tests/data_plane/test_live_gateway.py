"""A gateway on snapshots and limits of a real Redis: who gets in, where to, for how much."""

import asyncio
import hashlib
import hmac
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hand_client import TOKENS, HandClient, refused
from in_process_cloud import CONTROL, KEYS, Cloud
from prefill_control.snapshots.store import SnapshotStore
from prefill_data.errors import SettingsError
from prefill_data.gateway.live import go_live
from prefill_data.limits.kept import QUOTA_FILE
from prefill_data.metering.record import BilledAttempt, amount_micros
from prefill_data.settings import ControlLink
from prefill_fleet.snapshot import (
    VALID_MS,
    Beat,
    KeyEntry,
    LimitNumbers,
    ModelEntry,
    PlaceEntry,
    PreferenceEntry,
    PriceSpan,
    Rates,
    Roll,
    TenantEntry,
    digest_of,
    encode_part,
)
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.status import StatusCode
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client
from stand_in_backend import IDENTITY

S = StatusCode
PEPPER = b"p" * 32
LIST_RATES = Rates(input_miss_micros=3_000_000, input_hit_micros=300_000)
OWN_RATES = Rates(input_miss_micros=2_000_000, input_hit_micros=200_000)
N = len(TOKENS)
MODEL = {"name": "tiny", "fingerprint": IDENTITY.fingerprint.hex(),
         "tokenizer_fingerprint": IDENTITY.tokenizer_fingerprint.hex(),
         "numerics_profile": IDENTITY.numerics_profile, "context_tokens": 4096, "codecs": (),
         "active": True, "restricted": False}  # fmt: skip


def entry(tenant, **changes):
    secret = KEYS[tenant].encode()
    key = KeyEntry(
        key_id=f"key_{tenant}", proof=hmac.new(PEPPER, secret, hashlib.sha256).hexdigest(),
        revoked=False, expires_at_ms=0, may_prefill=True, addresses=(),
        limits=changes.pop("key_limits", None),
    )  # fmt: skip
    fields = {"state": "active", "keys": (key,), "limits": LimitNumbers(),
              "preference": PreferenceEntry(), "jurisdictions": (), "granted_models": (),
              "overrides": {}}  # fmt: skip
    return TenantEntry(tenant=tenant, **{**fields, **changes})


class LiveCloud:
    """A cloud whose gateway listens to `publish`."""

    def __init__(self, cloud, control):
        self.cloud, self.store, self.version = cloud, SnapshotStore(control, CONTROL), 0
        self.control = control

    async def publish(self, *entries, prices=((0, LIST_RATES),), **model):
        spans = tuple(PriceSpan(valid_from_ms=at, rates=rates) for at, rates in prices)
        parts = {each.tenant: encode_part(each) for each in entries}
        roll = encode_part(Roll(
            places=(PlaceEntry(name="eu", jurisdiction="EU", active=True),),
            models=(ModelEntry(**{**MODEL, "prices": spans, **model}),),
            tenants={tenant: digest_of(data) for tenant, data in parts.items()},
        ))  # fmt: skip
        self.version += 1
        now_ms = self.cloud.clock()
        beat = Beat(version=self.version, issued_at_ms=now_ms, valid_until_ms=now_ms + VALID_MS,
                    roll_digest=digest_of(roll))  # fmt: skip
        await self.store.write(beat, roll, parts)
        await self.cloud.parts.live.feed.refresh()

    def customer(self, key="idem", tenant="acme"):
        return HandClient(self.cloud, tenant, key=key)

    async def settle_limits(self):
        """Redis knows everything, and this gateway starts anew as another one would."""
        limiter = self.cloud.parts.live.limiter
        await limiter.settle()
        limiter.turn()
        await limiter.settle()
        limiter.book.slices.clear()

    async def lose_limits(self):
        """What Redis holds of limits is gone."""
        names = [name async for name in self.control.scan_iter("prefill:limits:*")]
        assert await self.control.delete(*names) > 0

    async def billed(self, key="idem"):
        """A request all the way; what the spool says of it."""
        customer = self.customer(key)
        chunks = await customer.through()
        answer = await customer.claim(chunks)
        record = BilledAttempt.decode(self.cloud.receipts[-1])
        assert answer.amount_micros == record.amount_micros
        return record


@asynccontextmanager
async def live_cloud(server, folder):
    made = Cloud(folder)
    link = ControlLink(redis_url=server.url("gateway"), api_key_pepper=PEPPER)
    made.gateway_settings = replace(made.gateway_settings, link=link, key_file=None)
    async with Client.from_url(server.url("control")) as control:
        async for name in control.scan_iter("prefill:*"):
            await control.delete(name)
        async with made as cloud:
            yield LiveCloud(cloud, control)


@pytest.fixture
async def live(redis_server, tmp_path, tidy):
    async with live_cloud(redis_server, tmp_path) as made:
        yield made


async def test_the_lists_price_and_then_the_tenants_own(live):
    await live.publish(entry("acme"))
    record = await live.billed("list")
    assert record.amount_micros == amount_micros(N, 0, LIST_RATES) == 3 * N
    assert record.key_id == "key_acme"
    assert record.certificate
    own = {"tiny": (PriceSpan(valid_from_ms=1, rates=OWN_RATES),)}
    await live.publish(entry("acme", overrides=own))
    assert (await live.billed("own")).amount_micros == 2 * N


async def test_a_price_is_fixed_when_a_request_is_accepted(live):
    await live.publish(entry("acme"))
    customer = live.customer()
    chunks = await customer.through()
    await live.publish(entry("acme"), prices=((0, OWN_RATES),))
    assert (await customer.claim(chunks)).amount_micros == 3 * N


async def test_the_lower_of_two_price_caps_holds(live):
    await live.publish(entry("acme", preference=PreferenceEntry(max_price_micros=3 * N - 1)))
    for asked in (0, 10**9):
        async with refused(S.PRICE_CAP_EXCEEDED) as detail:
            await live.customer().open(max_price_micros=asked)
        assert f"cap is {3 * N - 1}" in detail.message
    await live.publish(entry("acme", preference=PreferenceEntry(max_price_micros=3 * N)))
    assert (await live.customer().open()).accept.price_bound_micros == 3 * N


async def test_residency_refuses_and_no_request_widens_it(live):
    await live.publish(entry("acme", jurisdictions=("US",)))
    for residency in ([], ["eu"]):
        async with refused(S.NO_DATACENTER) as detail:
            await live.customer().open(residency=residency, datacenters=["eu"])
        assert "outside US" in detail.message
    await live.publish(entry("acme", jurisdictions=("EU",)))
    assert (await live.customer().open()).HasField("accept")


async def test_a_restricted_model_is_for_whom_it_is_granted(live):
    await live.publish(entry("acme"), entry("bolt", granted_models=("tiny",)), restricted=True)
    async with refused(S.UNKNOWN_MODEL):
        await live.customer().open()
    assert (await live.customer(tenant="bolt").open()).HasField("accept")


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ({"fingerprint": "ab" * 32}, S.MODEL_MISMATCH, "weights"),
        ({"tokenizer_fingerprint": "ab" * 32}, S.MODEL_MISMATCH, "tokenizer"),
        ({"numerics_profile": "bf16-cache"}, S.MODEL_MISMATCH, "numerics profile"),
        ({"context_tokens": N - 1}, S.PROMPT_TOO_LONG, f"{N} tokens"),
        ({"codecs": ("int8-row",)}, S.UNSUPPORTED_CODEC, "the catalogue allows int8-row"),
    ],
)
async def test_the_catalogue_holds_whatever_a_worker_would_serve(live, model, code, words):
    await live.publish(entry("acme"), **model)
    async with refused(code) as detail:
        await live.customer().open()
    assert words in detail.message
    listed = {**MODEL, "context_tokens": N, "codecs": ("raw", "int8-row")}
    await live.publish(entry("acme"), **{name: listed[name] for name in model})
    await live.billed("listed")


async def test_a_state_travels_by_the_codecs_of_the_catalogue_alone(live):
    found = {}
    for codecs in ((), ("raw",)):
        await live.publish(entry("acme"), codecs=codecs)
        chunks = await live.customer(f"{codecs}").through()
        found[codecs] = {chunk.header.codec.wire_name for chunk in chunks}
    assert found == {(): {"planes-zstd", "raw"}, ("raw",): {"raw"}}


async def test_a_revoked_key_and_an_old_snapshot_are_refused_by_name(live):
    await live.publish(entry("acme"))
    await live.customer("one").open()
    live.cloud.clock.advance(VALID_MS / 1000 + 1)
    async with refused(S.NETWORK_UNAVAILABLE) as detail:
        await live.customer("two").open()
    assert detail.retry_after_ms > 0
    await live.publish(entry("acme", state="suspended"))
    async with refused(S.TENANT_SUSPENDED):
        await live.customer("two").open()
    await live.publish()
    async with refused(S.KEY_NOT_FOUND):
        await live.customer("two").open()


async def test_a_rate_is_refused_with_its_numbers_and_a_time(live):
    numbers = LimitNumbers(requests_per_second=1, requests_burst=2)
    await live.publish(entry("acme", key_limits=numbers), entry("bolt"))
    for customer in (live.customer("one"), live.customer("two")):
        for _ in range(3):  # the same request again is no new one
            await customer.open()
    async with refused(S.RATE_LIMITED) as detail:
        await live.customer("three").open()
    assert "key key_acme: requests, limit 2 at once and 1 a second" in detail.message
    assert 0 < detail.retry_after_ms <= 1000
    await live.customer("three", "bolt").open()


async def test_a_quota_counts_what_was_billed_and_gives_back_what_was_not(live):
    await live.publish(entry("acme", limits=LimitNumbers(day_tokens_hard=2 * N)))
    await live.billed("one")
    cancelled = live.customer("two")
    await cancelled.open()
    async with refused(S.QUOTA_EXCEEDED) as detail:
        await live.customer("three").open()
    assert detail.retry_after_ms > 1000
    await cancelled.cancel()
    await live.settle_limits()
    await live.billed("three")
    async with refused(S.QUOTA_EXCEEDED):
        await live.customer("four").open()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_gateway_that_starts_after_redis_lost_its_data_knows_the_quota(live, kept):
    """From its own folder; the twin, without it: the whole quota is there again."""
    tenant = entry("acme", limits=LimitNumbers(day_tokens_hard=2 * N))
    await live.publish(tenant)
    await live.billed("one")
    await live.settle_limits()
    await live.cloud.stop_gateway()
    await live.lose_limits()
    if not kept:
        (live.cloud.gateway_settings.spool_dir / QUOTA_FILE).unlink()
    await live.cloud.start_gateway()
    await live.publish(tenant)
    await live.billed("two")
    if kept:
        async with refused(S.QUOTA_EXCEEDED):
            await live.customer("three").open()
    else:
        await live.billed("three")


async def test_a_place_is_free_again_when_its_request_ends(live):
    await live.publish(entry("acme", limits=LimitNumbers(concurrency=1)))
    first = live.customer("one")
    await first.open()
    async with refused(S.RATE_LIMITED) as detail:
        await live.customer("two").open()
    assert "concurrency, limit 1" in detail.message
    await first.cancel()
    await live.settle_limits()
    await live.billed("three")
    await live.customer("four").open()


async def test_a_worker_that_refuses_costs_no_quota_and_no_place(live):
    numbers = LimitNumbers(concurrency=1, day_tokens_hard=N)
    await live.publish(entry("acme", limits=numbers))
    async with refused(S.UNSUPPORTED_CODEC):
        await live.customer("one").open(codecs=["unheard-of"])
    await live.settle_limits()
    await live.customer("two").open()


async def test_requests_within_their_limits_are_let_in_while_redis_is_away(tmp_path, tidy):
    server = Redis(RedisPlan(tmp_path / "redis"))
    server.start()
    (tmp_path / "cloud").mkdir()
    try:
        async with live_cloud(server, tmp_path / "cloud") as live:
            await live.publish(entry("acme", limits=LimitNumbers(requests_per_second=1000)))
            await live.customer("one").open()
            await asyncio.to_thread(server.stop)
            for key in ("two", "three"):
                await live.customer(key).open()
    finally:
        server.destroy()


def test_a_gateway_that_could_check_no_key_does_not_start(tmp_path):
    settings = Cloud(tmp_path).gateway_settings
    for link, name in (
        (ControlLink(redis_url="redis://127.0.0.1:1"), "PREFILL_API_KEY_PEPPER_FILE"),
        (ControlLink(), "PREFILL_KEY_FILE"),
    ):
        wrong = replace(settings, link=link, key_file=None)
        with pytest.raises(SettingsError, match=name):
            go_live(wrong, CollectorRegistry(), lambda: 0)
