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

import httpx
import pytest
from prefill_cloud import PrefillCloudError
from prefill_cloud.manage import KeyValues, ManagementError
from prefill_data.process import now_ms
from prefill_fleet.names import BEAT_KEY
from prefill_fleet.snapshot import open_beat
from prefill_wire.certificate import verify_certificate
from prefill_wire.receipt import verify_receipt
from redis.asyncio import Redis

# Tests are no package: the classes beside them are found by their folder.
sys.path.insert(0, str(Path(__file__).parent))

from whole_platform import HOME, LOOK_SECONDS, eventually, prompt, running

SERVICES = ("control", "postgres", "redis")
UNHEARD = "NETWORK_UNAVAILABLE"
GATEWAY = f"{HOME}-gateway"
ROUNDS = 12
REFUSALS = 3  # of prefills, after what gateways know has ended


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


@dataclass(frozen=True)
class Outcome:
    """What became of one prefill; the code is empty for a state. Unix milliseconds."""

    began_ms: int
    ended_ms: int
    code: str = ""


@dataclass
class Load:
    """Prefills and REST writes, each one after the other; what was acknowledged is remembered."""

    here: object
    bills: list = field(default_factory=list)
    keys: dict = field(default_factory=dict)  # id -> secret
    failed: Counter = field(default_factory=Counter)
    outcomes: list = field(default_factory=list)

    async def prefills(self):
        async with self.here.client() as client:
            while True:
                tokens, began_ms, code = prompt(random.randrange(1 << 40), 70), now_ms(), ""
                try:
                    state = await client.prefill(tokens, *self.here.model, deadline_seconds=30)
                except PrefillCloudError as error:
                    code = error.code.name
                    self.failed[code] += 1
                else:
                    bill = (state.receipt.receipt_id, state.receipt.token_count)
                    self.bills.append(Bill(*bill, state.amount_micros))
                self.outcomes.append(Outcome(began_ms, now_ms(), code))
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


async def last_word(here):
    """Until when (Unix ms) the last that a control plane said holds, once its gateway has it."""
    async with Redis.from_url(here.part("redis")._service.url("control")) as redis:
        beat = open_beat(here.platform.control_public_key, await redis.get(BEAT_KEY))
    metrics = f"http://{here.part(GATEWAY).child.address('metrics')}/metrics"

    async def has_it():
        async with httpx.AsyncClient(trust_env=False) as http:
            lines = (await http.get(metrics)).text.splitlines()
        (line,) = [each for each in lines if each.startswith("prefill_gateway_snapshot_version ")]
        return float(line.split()[1]) == beat.version

    await eventually(has_it)
    return beat.valid_until_ms


def wrong_outcomes(outcomes, until_ms):
    """Refused while what is known held, or afterwards anything but refused for that reason."""
    early = [each for each in outcomes if each.ended_ms < until_ms and each.code]
    late = [each for each in outcomes if each.began_ms >= until_ms and each.code != UNHEARD]
    return early + late


@pytest.mark.nightly
async def test_what_is_known_holds_for_its_minute_and_not_longer(here, record_property):
    times = {name: kept(here, name).restarts + 1 for name in SERVICES}
    async with load_on(here) as load:
        with held_down(here, SERVICES):
            here.kill("control").wait(timeout=60)
            until_ms, first = await last_word(here), len(load.outcomes)
            killed_ms = now_ms()
            for name in ("postgres", "redis"):
                here.kill(name).wait(timeout=60)

            async def refused():
                return sum(each.began_ms >= until_ms for each in load.outcomes) >= REFUSALS

            await eventually(refused)
            assert not any(here.part(name).alive for name in SERVICES)
            outcomes = load.outcomes[first:]
        for name in SERVICES:
            await here.restarted(name, times[name])
        await load.more(2, 2)
    assert wrong_outcomes(outcomes, until_ms) == []
    last_ms = max(each.ended_ms for each in outcomes if not each.code)
    record_property("prefills_while_away", sum(not each.code for each in outcomes))
    record_property("last_prefill_seconds_after_the_kills", (last_ms - killed_ms) / 1000)
    record_property("entries_valid_seconds_after_the_kills", (until_ms - killed_ms) / 1000)
    await newest_key_works(here, load)
    await settled(here, load)


@pytest.mark.parametrize(
    "outcome", [Outcome(1, 9, UNHEARD), Outcome(1, 9, "RATE_LIMITED"), Outcome(10, 11),
                Outcome(10, 11, "RATE_LIMITED")],
)  # fmt: skip
def test_the_detector_of_early_and_late_refusals_fires(outcome):
    fine = [Outcome(1, 9), Outcome(9, 11), Outcome(9, 11, UNHEARD), Outcome(10, 11, UNHEARD)]
    assert wrong_outcomes(fine, 10) == []
    assert wrong_outcomes([*fine, outcome], 10) == [outcome]


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
