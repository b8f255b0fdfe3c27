"""Callers who leave in the middle: no answer reaches another caller, no connection is lost."""

import asyncio
import random
from collections import Counter

import pytest
import redis.asyncio
from prefill_stack.services.redis import Redis, RedisPlan

TENANTS = 12
AT_ONCE = 24
LAPS = [pytest.param(600, id="short"), pytest.param(20_000, id="long", marks=pytest.mark.nightly)]


async def hammer(fetch, tags, count, dice, *, steps=400):
    """Fetch tagged values, cancel at random; how many were own, foreign, cancelled, refused."""
    seen = Counter()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(tag, patience):
        async with gate:
            task = asyncio.ensure_future(fetch(tag))
            for _ in range(patience):
                await asyncio.sleep(0)
                if task.done():
                    break
            task.cancel()
            try:
                found = await task
            except asyncio.CancelledError:
                seen["cancelled"] += 1
                return
            seen["own" if found == tag else "foreign"] += 1

    laps = [one(dice.choice(tags), dice.randrange(steps)) for _ in range(count)]
    await asyncio.gather(*laps)
    return seen


class LeakyPool:
    """A client with the known fault: a cancelled caller's reply stays for the next one."""

    def __init__(self):
        self._replies = asyncio.Queue()
        self.lent = 0

    async def fetch(self, tag):
        self.lent += 1
        self._replies.put_nowait(tag)
        for _ in range(3):
            await asyncio.sleep(0)
        found = await self._replies.get()
        self.lent -= 1
        return found


async def test_the_detector_fires_on_a_leaky_client():
    pool = LeakyPool()
    seen = await hammer(pool.fetch, ["a", "b", "c"], 300, random.Random(1))
    assert seen["foreign"] > 0
    assert pool.lent > 0


@pytest.mark.parametrize("count", LAPS)
async def test_cancelled_requests_leak_nothing_through_postgres(api, count):
    callers = {}
    for _ in range(TENANTS):
        caller = await api.caller()
        callers[caller.tenant_id] = caller

    async def fetch(tenant_id):
        answer = await api.send(callers[tenant_id], "GET", "/v1/tenants")
        assert answer.status_code == 200, (answer.text, api.parts.database.engine.pool.status())
        (row,) = answer.json()["items"]
        return row["id"]

    # A request takes some twenty turns of the loop: patience is about as long.
    seen = await hammer(fetch, list(callers), count, random.Random(count), steps=100)
    assert seen["foreign"] == 0
    assert min(seen["own"], seen["cancelled"]) > count // 20, seen
    assert api.parts.database.connections_out() == 0
    for tenant_id in callers:  # and what is left in the pool serves everybody right
        assert await fetch(tenant_id) == tenant_id


@pytest.mark.parametrize("count", LAPS)
async def test_cancelled_changes_are_whole_or_not_at_all(api, count):
    caller = await api.caller()
    body = {"scopes": ["account:read"]}
    numbers = iter(range(count))

    async def fetch(tag):
        made = await api.send(caller, "POST", "/v1/keys", {**body, "name": f"k{next(numbers)}"})
        assert made.status_code == 201, made.text
        return tag

    await hammer(fetch, ["x"], min(count // 4, 2000), random.Random(count))
    counts = []
    async with api.parts.database.engine.connect() as connection:
        await connection.exec_driver_sql("SET ROLE prefill_operator")
        for table in ("api_keys WHERE name LIKE 'k%'", "audit_rows WHERE action = 'keys.create'"):
            where = f"SELECT count(*) FROM {table} AND tenant_id = '{caller.tenant_id}'"
            found = (await connection.exec_driver_sql(where)).scalar_one()
            counts.append(found)
        await connection.rollback()
    assert counts[0] == counts[1] > 0
    assert api.parts.database.connections_out() == 0


@pytest.mark.parametrize("count", LAPS)
async def test_cancelled_commands_leak_nothing_through_redis(tmp_path, count):
    with Redis(RedisPlan(tmp_path)) as server:
        client = redis.asyncio.Redis.from_url(server.url("control"), max_connections=AT_ONCE)
        tags = [f"ten_{number}" for number in range(TENANTS)]
        for tag in tags:
            await client.set(f"prefill:limits:{tag}", tag)

        async def fetch(tag):
            return (await client.get(f"prefill:limits:{tag}")).decode()

        seen = await hammer(fetch, tags, count, random.Random(count), steps=12)
        await client.aclose()
        assert seen["foreign"] == 0
        assert min(seen["own"], seen["cancelled"]) > count // 20, seen
    server.destroy()
