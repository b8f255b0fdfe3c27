"""kill -9 of each part in turn under load: nothing acknowledged is lost, nothing is billed twice.

While control plane, PostgreSQL or Redis is away, keys that gateways know go on prefilling.
"""

import asyncio
import random
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from prefill_cloud import PrefillCloudError
from prefill_cloud.manage import KeyValues, ManagementError
from prefill_wire.certificate import verify_certificate
from prefill_wire.receipt import verify_receipt

# Tests are no package: the classes beside them are found by their folder.
sys.path.insert(0, str(Path(__file__).parent))

from whole_platform import HOME, LOOK_SECONDS, eventually, prompt, running

SERVICES = ("control", "postgres", "redis")
GATEWAY = f"{HOME}-gateway"
ROUNDS = 12
HELD_SECONDS = 50.0  # of the 60 that what a gateway knows holds


@pytest.fixture(scope="module")
def here(tmp_path_factory, mqar):
    with running(tmp_path_factory.mktemp("platform"), mqar) as platform:
        yield platform


@dataclass(frozen=True)
class Bill:
    """What every book says about one receipt."""

    receipt_id: str
    token_count: int
    amount_micros: int


@dataclass
class Load:
    """Prefills and REST writes, each one after the other; what was acknowledged is remembered."""

    here: object
    bills: list = field(default_factory=list)
    keys: dict = field(default_factory=dict)  # id -> secret
    failed: Counter = field(default_factory=Counter)

    async def prefills(self):
        async with self.here.client() as client:
            while True:
                tokens = prompt(random.randrange(1 << 40), 70)
                try:
                    state = await client.prefill(tokens, *self.here.model, deadline_seconds=30)
                except PrefillCloudError as error:
                    self.failed[error.code.name] += 1
                else:
                    bill = (state.receipt.receipt_id, state.receipt.token_count)
                    self.bills.append(Bill(*bill, state.amount_micros))
                await asyncio.sleep(LOOK_SECONDS)

    async def writes(self):
        async with self.here.management() as operator:
            tenant = await operator.tenants.create(f"writer {random.randrange(1 << 40)}")
            account = operator.for_tenant(tenant.id)
            while True:
                values = KeyValues(name=f"{random.randrange(1 << 40)}", scopes=["prefill"])
                try:
                    issued = await account.keys.create(values)
                except ManagementError as error:
                    self.failed[error.code] += 1
                else:
                    self.keys[issued.key.id] = issued.secret.text
                await asyncio.sleep(LOOK_SECONDS)

    async def more(self, prefills, writes):
        """Until so many more were acknowledged."""
        prefills, writes = prefills + len(self.bills), writes + len(self.keys)

        async def look():
            return len(self.bills) >= prefills and len(self.keys) >= writes

        await eventually(look)


@asynccontextmanager
async def load_on(here):
    """A load that has begun; it ends with the block."""
    load = Load(here)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.prefills()), group.create_task(load.writes())]
        await load.more(2, 2)
        yield load
        for task in tasks:
            task.cancel()


@contextmanager
def held_down(here, names):
    """The keeper may not start these parts again until the block ends."""
    gate = Event()
    parts = [here.part(name) for name in names]
    for part in parts:

        def start(part=part, start=part.start):
            gate.wait()
            start()

        part.start = start
    try:
        yield
    finally:
        for part in parts:
            del part.start
        gate.set()


def kept(here, name):
    return next(kept for kept in here.keeper.kept if kept.part.name == name)


def spooled_bills(here):
    """What the gateways made durable."""
    found = []
    for billed in here.spooled():
        certificate = verify_certificate(
            here.platform.control_public_key, billed.certificate, billed.expires_at_ms
        )
        receipt = verify_receipt(certificate.public_key, billed.receipt)
        found.append(Bill(receipt.receipt_id, receipt.token_count, billed.amount_micros))
    return found


def faults(acknowledged, spooled, counted):
    """What was lost, doubled or changed on its way from SDK and spool to the control plane."""
    found = [f"spooled twice: {bill}" for bill, n in Counter(spooled).items() if n > 1]
    found += [f"counted twice: {bill}" for bill, n in Counter(counted).items() if n > 1]
    found += [f"delivered, not spooled: {bill}" for bill in set(acknowledged) - set(spooled)]
    found += [f"spooled, not counted: {bill}" for bill in set(spooled) - set(counted)]
    found += [f"counted, not spooled: {bill}" for bill in set(counted) - set(spooled)]
    return found


async def counted_bills(here):
    rows = (await here.rows()).values()
    return [Bill(row.receipt_id, row.token_count, row.amount_micros) for row in rows]


async def settled(here, load):
    """Nothing is lost or doubled once everything has come in, and every write is there."""
    spooled = spooled_bills(here)

    async def all_counted():
        return len(await counted_bills(here)) >= len(spooled)

    await eventually(all_counted, ManagementError)
    counted = await counted_bills(here)
    assert faults(load.bills, spooled, counted) == []
    async with here.management() as operator:
        totals = [row async for row in operator.usage.list(["tenant"])]
        there = {key.id async for key in operator.keys.list()}
    assert sum(row.requests for row in totals) == len(counted)
    assert sum(row.amount_micros for row in totals) == sum(b.amount_micros for b in counted)
    assert set(load.keys) <= there


async def newest_key_works(here, load):
    """A key that was acknowledged in these times gets in, once gateways have heard of it."""
    secret = load.keys[list(load.keys)[-1]]
    await eventually(lambda: here.prefill(prompt(random.randrange(1 << 40)), secret),
                     PrefillCloudError)  # fmt: skip


@pytest.mark.parametrize("name", [*SERVICES, GATEWAY])
async def test_what_is_killed_comes_back_and_nothing_is_lost(here, name):
    times = kept(here, name).restarts + 1
    async with load_on(here) as load:
        here.kill(name)
        await here.restarted(name, times)
        await load.more(2, 2)
    await newest_key_works(here, load)
    await settled(here, load)


async def test_known_keys_prefill_while_everything_else_is_away(here):
    times = {name: kept(here, name).restarts + 1 for name in SERVICES}
    async with load_on(here) as load:
        with held_down(here, SERVICES):
            for name in SERVICES:
                here.kill(name).wait(timeout=60)
            await load.more(3, 0)
            assert not any(here.part(name).alive for name in SERVICES)
        for name in SERVICES:
            await here.restarted(name, times[name])
        await load.more(2, 2)
    await newest_key_works(here, load)
    await settled(here, load)


@pytest.mark.nightly
async def test_what_is_known_holds_for_almost_a_minute(here):
    times = {name: kept(here, name).restarts + 1 for name in SERVICES}
    async with load_on(here) as load:
        with held_down(here, SERVICES):
            for name in SERVICES:
                here.kill(name).wait(timeout=60)
            failed = load.failed.total()
            ends = asyncio.get_running_loop().time() + HELD_SECONDS
            while asyncio.get_running_loop().time() < ends:
                await load.more(1, 0)
            refused = {c: n for c, n in load.failed.items() if c != "NETWORK_UNAVAILABLE"}
            assert not refused, (refused, failed)
        for name in SERVICES:
            await here.restarted(name, times[name])
    await settled(here, load)


@pytest.mark.nightly
async def test_many_kills_in_any_order(here):
    chance = random.Random(11)
    async with load_on(here) as load:
        for _ in range(ROUNDS):
            names = chance.sample([*SERVICES, GATEWAY], chance.randint(1, 3))
            times = {name: kept(here, name).restarts + 1 for name in names}
            for name in names:
                here.kill(name)
                await load.more(chance.randint(0, 1), 0)
            for name in names:
                await here.restarted(name, times[name])
            await load.more(1, 1)
    await newest_key_works(here, load)
    await settled(here, load)


BILLS = [Bill("a", 70, 14), Bill("b", 70, 14)]
CHANGED = Bill("b", 70, 15)


@pytest.mark.parametrize(
    ("acknowledged", "spooled", "counted"),
    [
        (BILLS, BILLS[:1], BILLS[:1]),
        (BILLS, BILLS, BILLS[:1]),
        (BILLS, BILLS, [*BILLS, BILLS[0]]),
        (BILLS, [*BILLS, BILLS[0]], BILLS),
        (BILLS, BILLS, [BILLS[0], CHANGED]),
        ([], [], BILLS[:1]),
    ],
)
def test_the_detector_of_lost_and_doubled_receipts_fires(acknowledged, spooled, counted):
    assert faults(BILLS, BILLS, BILLS) == faults([], BILLS, BILLS) == []
    assert faults(acknowledged, spooled, counted)
