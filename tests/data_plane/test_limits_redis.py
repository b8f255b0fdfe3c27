"""The script in Redis does what the ledger does; it outlives a restart of the server."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefill_data.limits import store as store_module
from prefill_data.limits.buckets import Bucket, BucketId, Charge, Limit
from prefill_data.limits.evaluate import Allowed
from prefill_data.limits.ledger import LEASE_US, Ask, Ledger
from prefill_data.limits.slices import IDLE_US, SliceBook
from prefill_data.limits.store import SCRIPT, RedisStore, script_arguments
from redis import Redis as BlockingClient
from redis.asyncio import Redis as Client

NOW_US = 1_800_000_000_000_000
CLOCK = "redis.call('TIME')"
TOLD = "{0, tonumber(ARGV[15])}"  # the test's clock in place of the server's
STEP = st.tuples(
    st.sampled_from(["one", "two", "three"]),
    st.integers(-5, 2 * LEASE_US),
    *(st.integers(0, 60) for _ in range(5)),
    st.integers(-1, 60),
    st.sampled_from([0, NOW_US, NOW_US + 5]),
)


@pytest.fixture(scope="module")
def blocking(redis_server):
    with BlockingClient.from_url(redis_server.url("gateway")) as client:
        yield client


def bucket(limit, rate, capacity, number=0):
    ends_at_ms = NOW_US // 1000 + 3_600_000 if limit is Limit.DAY_TOKENS else 0
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
    for holder, pause_us, keep, back, extra, want, least, left, born_us in steps:
        now_us += pause_us
        ask = Ask(found, keep, back, extra, want, least, told=left, told_born_us=born_us)
        answer = ledger.ask(holder, ask, now_us)
        told = script([found.id.name], [*script_arguments(holder, ask, now_us), now_us])
        assert store_module.Answer(*told) == answer


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


async def test_a_server_that_lost_its_data_hears_from_gateways_what_was_spent(redis_server):
    """Of quotas: a rate forgets by itself, a place is held."""
    async with Client.from_url(redis_server.url("gateway")) as client:
        stores = {name: RedisStore(client, name, lambda: NOW_US) for name in ("gw1", "gw2", "new")}
        books = {name: SliceBook() for name in stores}
        quota = Charge(bucket(Limit.DAY_TOKENS, 0, 1000, "lost"), 100)

        async def spend(name, times):
            """How many of so many requests are allowed, by a gateway whose stock is given back."""
            allowed = 0
            for _ in range(times):
                book = books[name]
                await settle(name, book.asks_for([quota], NOW_US))
                allowed += isinstance(book.decide([quota], NOW_US), Allowed)
            later_us = NOW_US + IDLE_US
            await settle(name, book.asks_of_time(later_us))
            book.slices.clear()  # what lay idle is forgotten, but not what was told
            return allowed

        async def settle(name, asks):
            for ask, answer in zip(asks, await stores[name].ask(asks), strict=True):
                books[name].answered(ask, answer, NOW_US)

        assert (await spend("gw1", 3), await spend("gw2", 4)) == (3, 4)
        await client.delete(quota.bucket.id.name)
        assert await spend("new", 1) == 1  # whoever comes first may know nothing
        assert await spend("gw2", 9) == 2  # of 1000, 700 were spent before and 100 since
        await client.delete(quota.bucket.id.name)
        assert await spend("gw1", 9) == 7  # what it was told of before the others spent the rest
        books["gw1"].memory.told.clear()  # the twin: without a memory all of it is there again
        await client.delete(quota.bucket.id.name)
        assert await spend("gw1", 12) == 10
