"""Sums of usage equal those of the rows, page by page, for one tenant and for all at once; a page
by tenants reads no more tenants than it shows."""

import datetime as dt
import itertools
import json
import random
from collections import Counter

import asyncpg
import pytest
from prefill_control.db import OfOneTenant, OfOperator
from prefill_control.pages import PageRequest
from prefill_control.usage import sums
from prefill_control.usage.repository import SUMS, UsageFilter
from prefill_control.usage.sums import GroupBy, summed
from sqlalchemy import event

BEGIN = dt.datetime(2026, 1, 30, 21, tzinfo=dt.UTC)  # its rows cross days and a month
TENANTS = [f"ten_{number:03d}" for number in range(40)]
IDLE = TENANTS[::7]  # have no usage
FILTERS = [
    UsageFilter(),
    UsageFilter(model="kimi", datacenter="ams"),
    UsageFilter(key_id="key_1", since=BEGIN + dt.timedelta(hours=5)),
    UsageFilter(since=BEGIN + dt.timedelta(hours=3), until=BEGIN + dt.timedelta(days=1)),
]
ORDERS = [
    list(order) for order in itertools.permutations((GroupBy.TENANT, GroupBy.DAY, GroupBy.MODEL), 2)
] + [[], [GroupBy.TENANT], [GroupBy.MONTH], list(GroupBy), list(GroupBy)[::-1]]


def made_rows():
    """Some hundred rows of usage, the same every time."""
    chance, rows = random.Random(7), {}
    busy = [tenant for tenant in TENANTS if tenant not in IDLE]
    for _ in range(900):
        hour = BEGIN + dt.timedelta(hours=chance.randrange(60))
        key = (chance.choice(busy), hour, f"key_{chance.randrange(3)}",
               chance.choice(["kimi", "other"]), chance.choice(["ams", "iad"]))  # fmt: skip
        rows[key] = [chance.randrange(1, 10**6) for _ in SUMS]
    return rows


@pytest.fixture(scope="module")
def rows():
    return made_rows()


@pytest.fixture
async def filled(database, urls, rows):
    """The database with those rows, written as its administrator."""
    connection = await asyncpg.connect(urls.admin)
    if not await connection.fetchval("SELECT count(*) FROM usage_hours"):
        named = [(tenant, tenant) for tenant in TENANTS]
        await connection.copy_records_to_table("tenants", records=named, columns=["id", "name"])
        columns = ["tenant_id", "hour", "key_id", "model", "datacenter", *SUMS]
        records = [(*key, *amounts) for key, amounts in rows.items()]
        await connection.copy_records_to_table("usage_hours", records=records, columns=columns)
    await connection.close()
    return database


def wanted_of(rows, by, only, tenant=""):
    """The slow oracle: every row added to its group."""
    found = {}
    for (of, hour, key_id, model, datacenter), amounts in rows.items():
        if tenant not in ("", of):
            continue
        named = ((only.key_id, key_id), (only.model, model), (only.datacenter, datacenter))
        if any(value not in ("", has) for value, has in named):
            continue
        if (only.since and hour < only.since) or (only.until and hour >= only.until):
            continue
        texts = {
            GroupBy.TENANT: of, GroupBy.KEY: key_id, GroupBy.MODEL: model,
            GroupBy.DATACENTER: datacenter, GroupBy.HOUR: hour.strftime("%Y-%m-%dT%H:00:00Z"),
            GroupBy.DAY: hour.strftime("%Y-%m-%d"), GroupBy.MONTH: hour.strftime("%Y-%m"),
        }  # fmt: skip
        group = tuple(texts[key] for key in by or [GroupBy.TENANT])
        found.setdefault(group, Counter()).update(dict(zip(SUMS, amounts, strict=True)))
    return [(group, dict(found[group])) for group in sorted(found)]


async def paged(database, reach, by, only, limit):
    found, cursor = [], ""
    while True:
        async with database.transaction(reach) as session:
            page = await summed(session, by, only, PageRequest(limit, cursor))
        found += [(tuple(row.group.values()), row.amounts) for row in page.rows]
        cursor = page.next_cursor
        if not cursor:
            return found


@pytest.mark.parametrize("by", ORDERS, ids=lambda by: "-".join(by) or "none")
async def test_sums_equal_those_of_the_rows(filled, rows, by):
    for only, limit in itertools.product(FILTERS, (7, 200)):
        got = await paged(filled, OfOperator(), by, only, limit)
        assert got == wanted_of(rows, by, only), only
    assert wanted_of(rows, by, FILTERS[1])  # the filters leave something to compare


async def test_a_tenant_and_an_operator_for_one_get_that_one(filled, rows):
    for tenant in (TENANTS[1], IDLE[0]):
        by = [GroupBy.TENANT, GroupBy.DAY]
        wanted = wanted_of(rows, by, UsageFilter(), tenant)
        assert bool(wanted) is (tenant not in IDLE)
        for reach in (OfOneTenant(tenant), OfOperator(tenant)):
            assert await paged(filled, reach, by, UsageFilter(), 2) == wanted


async def most_rows(database, by, cursor=""):
    """The most rows of usage that one step of the plan passed on, and the page's next cursor."""
    asked = []

    def noted(_connection, _cursor, statement, parameters, *_):
        asked.append((statement, parameters))

    engine = database.engine.sync_engine
    async with database.transaction(OfOperator()) as session:
        event.listen(engine, "before_cursor_execute", noted)
        page = await summed(session, by, UsageFilter(), PageRequest(3, cursor))
        event.remove(engine, "before_cursor_execute", noted)
        statement, parameters = asked[-1]
        explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        connection = await session.connection()
        told = (await connection.exec_driver_sql(explained, parameters)).scalar_one()
    plan = told if isinstance(told, list) else json.loads(told)
    return max(scanned(plan[0]["Plan"])), page.next_cursor


def scanned(node):
    """Rows that each scan of the hours gave, over all its turns."""
    if node.get("Relation Name") == "usage_hours":
        yield node["Actual Rows"] * node["Actual Loops"]
    for inner in node.get("Plans", ()):
        yield from scanned(inner)


@pytest.mark.parametrize("by", [[], [GroupBy.TENANT, GroupBy.DAY]], ids=["tenant", "by day"])
async def test_a_page_reads_the_tenants_that_it_shows(filled, rows, by, monkeypatch):
    of_tenant = Counter(tenant for tenant, *_ in rows)
    shown = 6 * max(of_tenant.values())  # four of the page and its end; with those that are idle
    first, cursor = await most_rows(filled, by)
    second, _ = await most_rows(filled, by, cursor)
    assert 0 < first <= shown
    assert 0 < second <= shown
    monkeypatch.setattr(sums, "_tenant_by_tenant", at_once)
    everything, _ = await most_rows(filled, by)
    assert everything == len(rows) > 3 * shown  # the twin


def at_once(rest, wanted, _after):
    return sums._together([GroupBy.TENANT, *rest], wanted)
