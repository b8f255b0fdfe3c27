"""Two gateways and 64 clients against one limit: nothing beyond it, and little refused in vain.

Hours of load pass in virtual time against a store with the latency of a network; the last tests
are a short form against a real Redis.
"""

import asyncio
import random
import time
from collections import Counter

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.limits.buckets import Bucket, BucketId, Limit
from prefill_data.limits.ledger import Ask, Ledger
from prefill_data.limits.limiter import Limiter
from prefill_data.limits.store import RedisStore, SurvivingStore
from prefill_fleet.snapshot import LimitNumbers
from prefill_wire.status import StatusCode
from redis.asyncio import Redis as Client
from virtual_time import run_virtually

SECOND_US = 1_000_000
START_US = 1_800_000_000 * SECOND_US
CLIENTS = 64
LATENCY_SECONDS = 0.001
RATE, BURST = 100, 100
NUMBERS = LimitNumbers(requests_per_second=RATE, requests_burst=BURST)


def now_us():
    return START_US + int(asyncio.get_running_loop().time() * SECOND_US)


class SharedStore:
    """The ledgers behind a network; `asked` counts round trips. `away`: nobody answers."""

    def __init__(self):
        self.ledgers, self.asked, self.away, self.frozen_seconds = {}, 0, False, 0.0

    def of(self, holder):
        store = self

        class OneGateway:
            async def ask(self, asks):
                store.asked += 1
                await asyncio.sleep(LATENCY_SECONDS)
                await asyncio.sleep(store.frozen_seconds)
                if store.away:
                    raise ConnectionError("away")
                found = [(store.ledgers.setdefault(a.bucket.id, Ledger()), a) for a in asks]
                answers = [ledger.ask(holder, a, now_us()) for ledger, a in found]
                await asyncio.sleep(LATENCY_SECONDS)
                return answers

        return OneGateway()


class Trial:
    """Limiters that run, and when each request was let in."""

    def __init__(self, stores, clock=now_us):
        self.clock = clock
        self.limiters = [Limiter(store, clock) for store in stores]
        self.granted_us, self.outcomes = [], Counter()

    async def __aenter__(self):
        self.running = [asyncio.create_task(limiter.run()) for limiter in self.limiters]
        return self

    async def __aexit__(self, *_):
        for task in self.running:
            task.cancel()
        for limiter in self.limiters:
            await limiter.settle()

    async def once(self, number, numbers=NUMBERS, tokens=1):
        """One request at one gateway; its permit, or None."""
        try:
            permit = await self.limiters[number].admit("acme", "key", (numbers, None), tokens)
        except DataPlaneError as error:
            self.outcomes[error.code] += 1
            return None
        self.granted_us.append(self.clock())
        self.outcomes["granted"] += 1
        return permit

    def worst_excess(self, rate, burst):
        """By how many grants the worst window, from any moment to any later one, exceeds
        burst + rate * t."""
        worst, least = -burst, 0.0
        for index, at_us in enumerate(sorted(self.granted_us)):
            due = rate * (at_us - START_US) / SECOND_US
            least = min(least, index - due) if index else -due
            worst = max(worst, index + 1 - due - least - burst)
        return worst


async def hammer(trial, gateway, seconds, seed):
    """A client that tries again at once, whatever it is told."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        permit = await trial.once(gateway)
        if permit is not None:
            permit.end(counted=True)
        await asyncio.sleep(chance.uniform(0.005, 0.02))


async def hammered(stores, seconds, clock=now_us):
    trial = Trial(stores, clock)
    async with trial:
        await asyncio.gather(*(hammer(trial, n % len(stores), seconds, n) for n in range(CLIENTS)))
    return trial


@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=pytest.mark.nightly)])
def test_64_hammering_clients_at_two_gateways_never_exceed_the_limit(seconds):
    shared = SharedStore()
    trial = run_virtually(hammered([shared.of("gw1"), shared.of("gw2")], seconds))
    allowance = BURST + RATE * seconds
    assert trial.outcomes["granted"] <= allowance + 1
    assert trial.worst_excess(RATE, BURST) <= 1
    assert trial.outcomes["granted"] >= 0.97 * allowance  # nor is the limit a pretext
    assert trial.outcomes[StatusCode.RATE_LIMITED] > trial.outcomes["granted"]


def test_the_detector_fires_on_gateways_that_do_not_share():
    stores = [SharedStore().of("gw1"), SharedStore().of("gw2")]
    trial = run_virtually(hammered(stores, 2))
    assert trial.worst_excess(RATE, BURST) > BURST / 2


async def offered(trial, load, seconds, share, seed):
    """Poisson arrivals at `load` times the rate; `share` of them at the first gateway."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    until, tasks = loop.time() + seconds, []
    while loop.time() < until:
        await asyncio.sleep(chance.expovariate(load * RATE))
        gateway = 0 if chance.random() < share else 1
        tasks.append(asyncio.create_task(trial.once(gateway)))
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_at_95_percent_of_the_limit_almost_nothing_is_refused(share):
    async def run():
        shared = SharedStore()
        trial = Trial([shared.of("gw1"), shared.of("gw2")])
        async with trial:
            await offered(trial, 0.95, 120, share, seed=11)
        return trial, shared.asked

    trial, asked = run_virtually(run())
    total = trial.outcomes.total()
    assert trial.outcomes[StatusCode.RATE_LIMITED] <= 0.02 * total
    assert trial.worst_excess(RATE, BURST) <= 1
    assert asked < total / 2  # most requests ask nobody


def test_the_refusal_counter_fires_beyond_the_limit():
    async def run():
        shared = SharedStore()
        trial = Trial([shared.of("gw1"), shared.of("gw2")])
        async with trial:
            await offered(trial, 1.3, 30, 0.5, seed=11)
        return trial

    trial = run_virtually(run())
    assert trial.outcomes[StatusCode.RATE_LIMITED] > 0.1 * trial.outcomes.total()


def test_places_are_shared_between_gateways_and_come_back():
    limit = LimitNumbers(concurrency=10)

    async def run():
        shared, running, most = SharedStore(), 0, 0
        trial = Trial([shared.of("gw1"), shared.of("gw2")])

        async def client(number):
            nonlocal running, most
            chance = random.Random(number)
            for _ in range(50):
                permit = await trial.once(number % 2, limit)
                if permit is not None:
                    running += 1
                    most = max(most, running)
                    await asyncio.sleep(chance.uniform(0.05, 0.15))
                    running -= 1
                    permit.end(counted=True)
                await asyncio.sleep(chance.uniform(0.02, 0.1))

        async with trial:
            await asyncio.gather(*(client(n) for n in range(CLIENTS)))
            alone = [await trial.once(0, limit) for _ in range(12)]
        return most, trial.outcomes["granted"], sum(permit is not None for permit in alone)

    most, granted, alone = run_virtually(run())
    assert most == 10
    assert granted > 300
    assert alone == 10


def test_a_quota_is_spent_once_by_both_and_what_was_not_counted_comes_back():
    limit = LimitNumbers(day_tokens_hard=1000)

    async def run():
        shared = SharedStore()
        trial = Trial([shared.of("gw1"), shared.of("gw2")])
        async with trial:
            permits = [await trial.once(n % 2, limit, 100) for n in range(14)]
            spent = sum(permit is not None for permit in permits)
            for permit in permits[:2]:
                permit.end(counted=False)
                permit.end(counted=False)  # a second end is none
            await asyncio.sleep(3)  # what lies idle goes back
            again = [await trial.once(1, limit, 100) for _ in range(4)]
        return spent, sum(permit is not None for permit in again), trial.outcomes

    spent, again, outcomes = run_virtually(run())
    assert (spent, again) == (10, 2)
    assert outcomes[StatusCode.QUOTA_EXCEEDED] == 6


def test_without_redis_each_gateway_keeps_to_its_share_and_tells_it_afterwards():
    async def run():
        shared = SharedStore()
        stores = [SurvivingStore(shared.of(n), n, 2, now_us) for n in ("gw1", "gw2")]
        trial = Trial(stores)
        async with trial:
            await offered(trial, 0.5, 5, 0.5, seed=3)
            shared.away, before = True, trial.outcomes["granted"]
            await asyncio.gather(*(hammer(trial, n % 2, 8, n) for n in range(CLIENTS)))
            away = trial.outcomes["granted"] - before
            shared.away = False
            await asyncio.gather(*(hammer(trial, n % 2, 3, n) for n in range(CLIENTS)))
        return away, trial.worst_excess(RATE, BURST)

    away, excess = run_virtually(run())
    assert 0.9 * RATE * 8 <= away <= BURST + RATE * 8
    assert excess <= 0.1 * BURST  # nobody could say what the other one did


@pytest.mark.parametrize(("held", "granted"), [(4, 4), (0, 0)])
def test_what_a_gateway_holds_when_redis_goes_is_its_to_give_back(held, granted):
    """Of a rate of which nothing else is left."""

    async def run():
        shared = SharedStore()
        shared.away = True
        store = SurvivingStore(shared.of("gw1"), "gw1", 1, now_us)
        bucket = Bucket(BucketId("acme", "-", Limit.TOKENS), 1, 10)
        return await store.ask([Ask(bucket, back=held, want=4, least=4, known_left=0)])

    (answer,) = run_virtually(run())
    assert answer.granted == granted


def test_a_redis_that_is_frozen_holds_up_requests_once_until_it_is_noticed():
    async def run():
        shared = SharedStore()
        trial = Trial([SurvivingStore(shared.of("gw1"), "gw1", 1, now_us)])
        loop, waits = asyncio.get_running_loop(), []

        async def one():
            begun = loop.time()
            await trial.once(0)
            waits.append(loop.time() - begun)

        async with trial:
            await one()
            shared.away, shared.frozen_seconds = True, 2.0
            tasks = []
            for _ in range(1000):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(0.02)
            await asyncio.gather(*tasks)
        return trial.outcomes["granted"], sorted(waits)

    granted, waits = run_virtually(run())
    assert granted >= 990  # more waited at once than the burst allows
    assert waits[len(waits) // 2] == 0
    assert sum(wait > 0 for wait in waits) < 150  # those of the first 2 s, until it was noticed
    assert waits[-1] < 3


def test_a_gateway_that_never_asked_lends_to_itself_and_tells_it_afterwards():
    limit = LimitNumbers(day_tokens_hard=1000)

    async def run():
        shared = SharedStore()
        shared.away = True
        trial = Trial([SurvivingStore(shared.of("gw1"), "gw1", 2, now_us)])
        async with trial:
            first = [await trial.once(0, limit, 100) for _ in range(7)]
            shared.away = False
            await asyncio.sleep(10)
            second = [await trial.once(0, limit, 100) for _ in range(7)]
        return [sum(p is not None for p in permits) for permits in (first, second)]

    assert run_virtually(run()) == [5, 5]  # its half of the whole, then what is left


def test_a_request_larger_than_the_limit_is_told_that_waiting_is_in_vain():
    async def run():
        limiter = Limiter(SharedStore().of("gw"), now_us)
        await limiter.admit("acme", "key", (LimitNumbers(tokens_per_second=10), None), 11)

    with pytest.raises(DataPlaneError) as refusal:
        run_virtually(run())
    assert (refusal.value.code, refusal.value.retry_after_ms) == (StatusCode.RATE_LIMITED, 0)


def test_no_limit_asks_nobody():
    async def run():
        shared = SharedStore()
        limiter = Limiter(shared.of("gw"), now_us)
        (await limiter.admit("acme", "key", (LimitNumbers(), None), 10**6)).end(counted=True)
        return shared.asked

    assert run_virtually(run()) == 0


def wall_us():
    return time.time_ns() // 1000


async def test_64_hammering_clients_through_a_real_redis(redis_server):
    seconds = 3
    async with (
        Client.from_url(redis_server.url("gateway")) as one,
        Client.from_url(redis_server.url("gateway")) as two,
    ):
        stores = [RedisStore(one, "gw1", wall_us), RedisStore(two, "gw2", wall_us)]
        trial = await hammered(stores, seconds, wall_us)
    times = sorted(trial.granted_us)
    lasted = (times[-1] - times[0]) / SECOND_US
    assert len(times) <= BURST + RATE * lasted + 1
    assert len(times) > BURST
