"""Turnstile: one at a time, fair among tenants, and no schedule of cancellations jams it."""

import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefill_data.scheduler.turnstile import Turnstile


async def test_a_tenant_with_many_jobs_gets_no_more_turns_than_one_with_one():
    turnstile, order = Turnstile(), []

    async def job(tenant, name, steps):
        for _ in range(steps):
            async with turnstile.turn(tenant, name):
                order.append(tenant)
                await asyncio.sleep(0)

    jobs = [job("many", f"m{n}", 10) for n in range(8)] + [job("one", "o", 10)]
    await asyncio.gather(*jobs)
    while_both = order[: len(order) - order[::-1].index("one")]
    counts = Counter(while_both)
    assert abs(counts["many"] - counts["one"]) <= 2
    assert Counter(order) == {"many": 80, "one": 10}  # the twin: nobody is left out either


ACTIONS = ("cancel 0", "cancel 1", "cancel 2", "leave", "tick")


async def test_no_schedule_of_cancellations_jams_it():
    for schedule in itertools.product(ACTIONS, repeat=4):
        await run(schedule)


@pytest.mark.nightly
@settings(max_examples=3000, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=20))
def test_no_long_schedule_jams_it(schedule):
    asyncio.run(run(schedule))


async def run(schedule):
    """Three jobs and a schedule of events within the same iterations of the loop."""
    turnstile, inside, most = Turnstile(), [], 0
    gates = [asyncio.Event() for _ in range(3)]

    async def job(number):
        nonlocal most
        async with turnstile.turn(f"t{number % 2}", f"j{number}"):
            inside.append(number)
            most = max(most, len(inside))
            try:
                await gates[number].wait()
            finally:
                inside.remove(number)

    tasks = [asyncio.create_task(job(number)) for number in range(3)]
    await asyncio.sleep(0)
    for action in schedule:
        if action == "tick":
            await asyncio.sleep(0)
        elif action == "leave":
            for number in inside:
                gates[number].set()
        else:
            tasks[int(action[-1])].cancel()
    for gate in gates:
        gate.set()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [r for r in results if isinstance(r, Exception)]
    assert most <= 1
    async with asyncio.timeout(5), turnstile.turn("after", "after"):
        assert turnstile.waiting == 0
