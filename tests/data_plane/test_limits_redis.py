"""The script in Redis does what the ledger does; it outlives a restart of the server."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefill_data.limits import store as store_module
from prefill_data.limits.buckets import Bucket, BucketId, Limit
from prefill_data.limits.ledger import LEASE_US, Ask, Ledger
from prefill_data.limits.store import SCRIPT, RedisStore, script_arguments
from prefill_stack.services.redis import Redis, RedisPlan
from redis import Redis as BlockingClient
from redis.asyncio import Redis as Client

NOW_US = 1_800_000_000_000_000
CLOCK = "redis.call('TIME')"
TOLD = "{0, tonumber(ARGV[13])}"  # the test's clock in place of the server's
STEP = st.tuples(
    st.sampled_from(["one", "two", "three"]),
    st.integers(-5, 2 * LEASE_US),
    *(st.integers(0, 60) for _ in range(5)),
)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    server = Redis(RedisPlan(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="module")
def blocking(redis_server):
    with BlockingClient.from_url(redis_server.url("gateway")) as client:
        yield client


def bucket(limit, rate, capacity, number=0):
    ends_at_ms = NOW_US // 1000 + 1000 if limit is Limit.DAY_TOKENS else 0
    name = BucketId(f"t{number}", "-", limit)
    return Bucket(name, rate, capacity, limit is Limit.CONCURRENCY, ends_at_ms)


NUMBERS = iter(range(10**9))


@given(
    limit=st.sampled_from([Limit.TOKENS, Limit.CONCURRENCY, Limit.DAY_TOKENS]),
    rate=st.integers(1, 10**7),
    capacity=st.integers(0, 1 << 33),
    steps=st.lists(STEP, min_size=1, max_size=25),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_script_is_the_ledger(blocking, limit, rate, capacity, steps):
    assert SCRIPT.count(CLOCK) == 1
    found = bucket(limit, rate if limit is Limit.TOKENS else 0, capacity, next(NUMBERS))
    script = blocking.register_script(SCRIPT.replace(CLOCK, TOLD))
    ledger, now_us = Ledger(), NOW_US
    for holder, pause_us, keep, back, extra, want, least in steps:
        now_us += pause_us
        ask = Ask(found, keep, back, extra, want, least)
        answer = ledger.ask(holder, ask, now_us)
        told = script([found.id.name], [*script_arguments(holder, ask, now_us), now_us])
        assert told == [answer.granted, answer.left, answer.wait_us]


async def test_units_are_lent_by_the_servers_clock_and_settled(redis_server):
    async with Client.from_url(redis_server.url("gateway")) as client:
        one, two = (RedisStore(client, name, lambda: NOW_US) for name in ("gw1", "gw2"))
        found = bucket(Limit.DAY_TOKENS, 0, 100, "settled")
        (first,) = await one.ask([Ask(found, want=60, least=60)])
        (second,) = await two.ask([Ask(found, want=60, least=60)])
        assert (first.granted, second.granted, second.wait_us) == (60, 0, -1)
        await one.ask([Ask(found, keep=10, back=30)])  # 20 of the 60 were spent
        (third,) = await two.ask([Ask(found, want=70)])
        assert (third.granted, third.left) == (70, 0)
        assert await client.pttl(found.id.name) > 0


async def test_a_script_that_the_server_forgot_is_loaded_again(redis_server):
    async with (
        Client.from_url(redis_server.url("gateway")) as client,
        Client.from_url(redis_server.url("control")) as control,
    ):
        found = bucket(Limit.CONCURRENCY, 0, 3, "forgot")
        lender = RedisStore(client, "gw", lambda: NOW_US)
        assert (await lender.ask([Ask(found, want=1)]))[0].granted == 1
        await control.script_flush()
        answers = await lender.ask([Ask(found, keep=1, want=1), Ask(found, keep=2, want=1)])
        assert [answer.granted for answer in answers] == [1, 1]


def test_the_script_is_shipped():
    assert store_module.SCRIPT.startswith("-- One bucket's account")
