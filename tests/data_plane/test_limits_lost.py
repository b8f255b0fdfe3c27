"""A Redis that lost its data: gateways tell it what was spent, whatever the quotas are by now."""

import asyncio
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefill_data.errors import DataPlaneError
from prefill_data.limits.buckets import SECOND_US, Bucket, BucketId, Charge, Limit
from prefill_data.limits.evaluate import Allowed
from prefill_data.limits.ledger import Answer, Ask, Ledger
from prefill_data.limits.limiter import Limiter
from prefill_data.limits.memory import AT_ONCE, LOOK_US, QuotaMemory
from prefill_data.limits.slices import IDLE_US, SliceBook
from prefill_data.limits.store import RedisStore, SurvivingStore
from prefill_fleet.snapshot import LimitNumbers
from prefill_stack.services.redis import Redis, RedisPlan
from redis.asyncio import Redis as Client
from virtual_time import run_virtually

START_US = 1_800_000_000 * SECOND_US
COST = 100
SOFT_ALONE = LimitNumbers(month_tokens_soft=1)


def quota(capacity, tenant="acme"):
    name = BucketId(tenant, "-", Limit.MONTH_TOKENS, "2027-01")
    ends_at_ms = START_US // 1000 + 10**9
    return Charge(Bucket(name, 0, capacity, ends_at_ms=ends_at_ms), COST)


class Ledgers:
    """A server without a network; `lose` is what FLUSHALL does."""

    def __init__(self):
        self.kept = {}

    def lose(self):
        self.kept.clear()

    def of(self, holder, now_us):
        server = self

        class Store:
            async def ask(self, asks):
                found = [(server.kept.setdefault(a.bucket.id, Ledger()), a) for a in asks]
                return [ledger.ask(holder, a, now_us()) for ledger, a in found]

        return Store()


class Breaking:
    """A store that nobody answers for while it is `away`."""

    def __init__(self, store, away=False):
        self.store, self.away = store, away

    async def ask(self, asks):
        if self.away:
            raise ConnectionError("away")
        return await self.store.ask(asks)


class Gateway:
    """A book driven by hand: between two calls nothing lies in its stock."""

    def __init__(self, store, clock):
        self.store, self.clock, self.book = store, clock, SliceBook()

    async def spend(self, charge, times):
        """How many of so many requests are allowed."""
        allowed = 0
        for _ in range(times):
            await self._settle(self.book.asks_for([charge], self.clock.now_us))
            allowed += isinstance(self.book.decide([charge], self.clock.now_us), Allowed)
        await self.turn()
        return allowed

    async def turn(self):
        """What a gateway does by itself after a while."""
        self.clock.now_us += max(IDLE_US, LOOK_US)
        await self._settle(self.book.asks_of_time(self.clock.now_us))
        self.book.slices.clear()  # as of a quota that lies idle for longer than a lease

    async def _settle(self, asks):
        for ask, answer in zip(asks, await self.store.ask(asks), strict=True):
            self.book.answered(ask, answer, self.clock.now_us)


class Clock:
    def __init__(self):
        self.now_us = START_US

    def __call__(self):
        return self.now_us


STEP = st.one_of(
    st.tuples(st.just("spend"), st.integers(0, 2), st.integers(1, 6)),
    st.tuples(st.just("change"), st.just(0), st.integers(0, 20)),
    st.tuples(st.just("lose"), st.integers(0, 1), st.just(0)),
)


@given(capacity=st.integers(0, 20), steps=st.lists(STEP, max_size=40))
@settings(max_examples=150, deadline=None)
def test_whatever_is_lost_and_changed_a_quota_is_spent_once(capacity, steps):
    """To the unit, as far as anybody knows: the third gateway is a new one after every loss, and
    the others come before it with the highest number that they were told."""

    async def run(capacity):
        server, clock = Ledgers(), Clock()
        spent, known = 0, [0, 0, 0]
        gateways = [Gateway(server.of(n, clock), clock) for n in ("gw1", "gw2", "new")]
        for what, which, number in steps:
            if what == "change":
                capacity = number
            elif what == "lose":
                server.lose()
                gateways[2].book, spent = SliceBook(), 0
                for index in (which, 1 - which):
                    await gateways[index].turn()
                    spent = known[index] = max(spent, known[index])
            else:
                allowed = await gateways[which].spend(quota(COST * capacity), number)
                assert allowed == min(number, max(0, capacity - spent))
                spent = known[which] = spent + allowed

    asyncio.run(run(capacity))


@pytest.mark.parametrize(("asker", "known"), [("gw1", 3), ("gw2", 7), ("new", 7)])
@pytest.mark.parametrize("quota_now", [1000, 2000, 800, 500])
async def test_a_redis_that_was_lost_hears_what_was_spent_of_a_changed_quota(
    redis_place, asker, known, quota_now
):
    """The server is destroyed, and a new one takes its place; 700 were spent of 1000. Whoever asks
    first asks with the changed quota, except that a new gateway comes after those that know."""
    clock = Clock()
    gateways = {name: Gateway(None, clock) for name in ("gw1", "gw2", "new")}
    with redis_place() as server:
        async with Client.from_url(server.url("gateway")) as client:
            connect(gateways, client, clock)
            assert await gateways["gw1"].spend(quota(1000), 3) == 3  # all that it was told of
            assert await gateways["gw2"].spend(quota(1000), 4) == 4
    with redis_place() as server:
        async with Client.from_url(server.url("gateway")) as client:
            connect(gateways, client, clock)
            if asker == "new":
                for name in ("gw1", "gw2", "gw1"):  # a second time adds nothing
                    await gateways[name].turn()
            left = max(0, quota_now // COST - known)
            assert await gateways[asker].spend(quota(quota_now), 30) == left
            await gateways["gw2"].turn()
            spent = await client.hget(quota(0).bucket.id.name, "d")
            assert int(spent) == COST * (7 + left)


@pytest.fixture
def redis_place(tmp_path):
    """A Redis, and again one in the same place that has nothing of the first."""

    @contextmanager
    def begin():
        with Redis(RedisPlan(tmp_path)) as server:
            yield server
        server.destroy()

    return begin


def connect(gateways, client, clock):
    for name, gateway in gateways.items():
        gateway.store = RedisStore(client, name, clock)


def now_us():
    return START_US + int(asyncio.get_running_loop().time() * SECOND_US)


async def allowed_of(limiter, numbers, times, tenant="acme"):
    """How many requests are let in."""
    count = 0
    for _ in range(times):
        try:
            await limiter.admit(tenant, "key", (numbers, None), COST)
        except DataPlaneError:
            continue
        count += 1
    return count


class Running:
    """Limiters that run; `stop` ends one."""

    def __init__(self, **limiters):
        self.limiters = limiters

    async def __aenter__(self):
        self.tasks = {n: asyncio.create_task(each.run()) for n, each in self.limiters.items()}
        return self.limiters

    async def __aexit__(self, *_):
        for task in self.tasks.values():
            task.cancel()
        for limiter in self.limiters.values():
            await limiter.settle()


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (LimitNumbers(month_tokens_hard=1000), LimitNumbers(month_tokens_hard=1000), 3),
        (LimitNumbers(month_tokens_hard=1000), LimitNumbers(month_tokens_hard=2000), 13),
        (LimitNumbers(month_tokens_hard=2000), LimitNumbers(month_tokens_hard=1000), 3),
        (LimitNumbers(month_tokens_hard=1000), LimitNumbers(month_tokens_hard=600), 0),
        (SOFT_ALONE, LimitNumbers(month_tokens_hard=1000), 3),  # added
    ],
)
@pytest.mark.parametrize("lives", [True, False])
def test_a_gateway_that_knows_nothing_is_told_by_one_that_idles(first, second, left, lives):
    """Within two seconds, though nobody asks the other one for anything; the twin: nobody lives
    who knows, and the whole quota is there once more."""

    async def run():
        server = Ledgers()
        old, new = (Limiter(server.of(name, now_us), now_us) for name in ("old", "new"))
        async with Running(old=old):
            assert await allowed_of(old, first, 7) == 7
            await asyncio.sleep(10)
            assert await allowed_of(old, LimitNumbers(), 3) == 3  # removed: nothing is counted
        server.lose()
        async with Running(new=new, **({"old": old} if lives else {})):
            await asyncio.sleep(2)
            return await allowed_of(new, second, 20)

    assert run_virtually(run()) == (left if lives else second.month_tokens_hard // COST)


def test_what_is_lent_before_anybody_tells_is_added_to_what_is_told():
    numbers = LimitNumbers(month_tokens_hard=1000)

    async def run():
        server = Ledgers()
        old, new = (Limiter(server.of(name, now_us), now_us) for name in ("old", "new"))
        async with Running(old=old, new=new):
            assert await allowed_of(old, numbers, 7) == 7
            await asyncio.sleep(10)
            server.lose()
            early = await allowed_of(new, numbers, 2)
            await asyncio.sleep(5)
            return early, await allowed_of(old, numbers, 20), await allowed_of(new, numbers, 20)

    assert run_virtually(run()) == (2, 1, 0)


def test_after_a_loss_every_quota_is_told_of_once_and_soon():
    tenants, numbers = [f"t{n}" for n in range(3 * AT_ONCE)], LimitNumbers(month_tokens_hard=1000)

    async def run():
        server, asked = Ledgers(), 0
        store = server.of("old", now_us)

        class Counting:
            async def ask(self, asks):
                nonlocal asked
                asked += len(asks)
                return await store.ask(asks)

        old = Limiter(Counting(), now_us)
        async with Running(old=old):
            for tenant in tenants:
                await allowed_of(old, numbers, 1, tenant)
            await asyncio.sleep(10)
            idle = asked
            await asyncio.sleep(10)
            idle = asked - idle
            server.lose()
            before = asked
            await asyncio.sleep(3)
            told = {name.tenant: ledger.before for name, ledger in server.kept.items()}
            await asyncio.sleep(7)
            return idle, told, asked - before

    idle, told, asked = run_virtually(run())
    assert idle <= 11  # one a second
    assert told == dict.fromkeys(tenants, COST)
    assert asked <= len(tenants) + 12


def test_a_quota_whose_period_is_over_is_forgotten():
    memory, charge = QuotaMemory(), quota(1000)
    memory.take(charge.bucket, Answer(0, 0, 0, 1, COST), START_US, START_US)
    assert memory.due(START_US) == [charge.bucket]
    assert memory.due(START_US) == []  # it was looked at
    over_us = 1000 * charge.bucket.ends_at_ms
    assert memory.due(over_us - 1) == [charge.bucket]
    assert memory.due(over_us) == []
    assert not memory.told


def test_what_was_spent_without_redis_is_added_to_what_was_told_of_the_one_that_is_lost():
    """7 with it, the gateway's half of the other 3 without it."""
    numbers = LimitNumbers(month_tokens_hard=1000)

    async def run():
        server = Ledgers()
        store = Breaking(server.of("gw", now_us))
        limiter = Limiter(SurvivingStore(store, "gw", 2, now_us), now_us)
        async with Running(gw=limiter):
            first = await allowed_of(limiter, numbers, 7)
            await asyncio.sleep(10)
            store.away = True
            alone = await allowed_of(limiter, numbers, 7)
            server.lose()
            store.away = False
            await asyncio.sleep(10)
            return first, alone, await allowed_of(limiter, numbers, 7)

    assert run_virtually(run()) == (7, 1, 2)


@pytest.mark.parametrize(("capacity", "granted"), [(1000, 1), (2000, 6), (600, 0)])
def test_without_redis_a_changed_quota_is_lent_by_what_was_spent(capacity, granted):
    """700 were; half of what is left is this gateway's, also of a quota it has not used lately."""

    async def run():
        book, spent = SliceBook(), quota(1000).bucket
        book.memory.take(spent, Answer(0, 300, 0, 1, 700), START_US, START_US)
        store = SurvivingStore(Breaking(None, away=True), "gw", 2, now_us)
        count = 0
        while isinstance(await step(book, store, quota(capacity)), Allowed):
            count += 1
        return count

    assert run_virtually(run()) == granted


async def step(book, store, charge):
    """One request, asked for once."""
    asks = book.asks_for([charge], START_US)
    for ask, answer in zip(asks, await store.ask(asks), strict=True):
        book.answered(ask, answer, START_US)
    return book.decide([charge], START_US)


def test_units_that_a_gateway_keeps_are_part_of_what_it_was_told():
    """The twin keeps what nobody counted: that is added."""
    ledger, found = Ledger(at_us=START_US, born_us=START_US, debt=100), quota(1000).bucket
    told = Ask(found, keep=50, told=700, told_born_us=1)
    assert ledger.ask("one", told, START_US).spent == 800
    assert ledger.ask("one", told, START_US).spent == 800  # again: an answer was lost
    more = Ask(found, keep=70, told=710, told_born_us=1)
    assert ledger.ask("two", more, START_US).spent == 810
    assert ledger.ask("three", Ask(found, keep=30), START_US).spent == 840


@pytest.mark.parametrize(("spent_alone", "counted"), [(10, 20), (0, 20)])
def test_what_is_lent_without_redis_counts_beside_what_is_held_from_before(spent_alone, counted):
    """Ten units from Redis, ten from itself; a lease that still holds hides none of them."""

    async def run():
        server, found = Ledgers(), quota(1000).bucket
        broken = Breaking(server.of("gw", now_us))
        store = SurvivingStore(broken, "gw", 2, now_us)
        await store.ask([Ask(found, want=10)])
        broken.away = True
        await store.ask([Ask(found, keep=10, want=10, known_left=990)])
        broken.away = False
        await asyncio.sleep(1)  # it looks whether it is back
        (answer,) = await store.ask([Ask(found, keep=20 - spent_alone)])
        return answer.spent

    assert run_virtually(run()) == counted


def test_a_look_at_a_quota_in_use_asks_by_its_number_of_now():
    book, was, now = SliceBook(), quota(1000), quota(500)
    book.memory.take(was.bucket, Answer(0, 300, 0, 1, 700), START_US, START_US)
    assert [ask.bucket for ask in book.asks_of_time(START_US)] == [was.bucket]  # the twin: idle
    book.slices.clear()
    book.decide([now], START_US + LOOK_US)
    (ask,) = book.asks_of_time(START_US + LOOK_US)
    assert ask.bucket == now.bucket
