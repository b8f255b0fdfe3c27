"""Limits: GCRA never grants more than it may, one evaluation names what refuses."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_control.quotas.evaluation import (
    Counters,
    LimitSet,
    Quota,
    evaluate,
    until_next_day,
    until_next_month,
)
from prefill_control.quotas.gcra import SECOND_US, Rate, take

NOW = dt.datetime(2026, 3, 29, 0, 30, tzinfo=dt.UTC)  # the night of a DST change in Europe


@given(
    st.integers(1, 1000),
    st.integers(1, 100),
    st.lists(st.integers(0, 200_000), min_size=1, max_size=200),
)
def test_grants_never_exceed_burst_and_rate(per_second, burst, gaps_us):
    rate, arrival, now, granted = Rate(per_second, burst), 0, 1_000_000_000, 0
    start = now
    for gap in gaps_us:
        now += gap
        grant = take(rate, arrival, now)
        arrival = grant.arrival_us
        granted += grant.allowed
        most = burst + (now - start) * per_second / SECOND_US + 1
        assert granted <= most
        assert 0 <= grant.remaining <= burst


@given(st.integers(1, 1000), st.integers(1, 50))
def test_waiting_as_told_is_enough(per_second, burst):
    rate, arrival, now = Rate(per_second, burst), 0, 10**9
    while (grant := take(rate, arrival, now)).allowed:
        arrival = grant.arrival_us
    assert take(rate, arrival, now + grant.retry_after_us).allowed
    assert not take(rate, arrival, now + grant.retry_after_us - 1).allowed


def test_more_than_the_burst_at_once_is_never_granted():
    assert not take(Rate(10, 5), 0, 10**9, cost=6).allowed
    assert take(Rate(10, 5), 0, 10**9, cost=5).allowed


@pytest.mark.parametrize(
    ("limit", "counter", "name", "retry_seconds"),
    [
        (LimitSet(subject="t", concurrency=2), Counters(in_flight=2), "concurrency", 1),
        (LimitSet(subject="t", tokens=Rate(100, 50)), Counters(), "tokens_per_second", 0),
        (LimitSet(subject="t", day=Quota(None, 1000)), Counters(day_tokens=901), "day_tokens",
         23.5 * 3600),
        (LimitSet(subject="t", month=Quota(None, 1000)), Counters(month_tokens=901),
         "month_tokens", (2 * 24 + 23.5) * 3600),
    ],
)  # fmt: skip
def test_a_refusal_names_its_limit_and_its_numbers(limit, counter, name, retry_seconds):
    verdict = evaluate([limit], [counter], 100, NOW)
    assert not verdict.allowed
    assert verdict.refusal.limit_name == name
    assert verdict.refusal.retry_after_us >= retry_seconds * SECOND_US
    assert verdict.counters == (counter,)


def test_nothing_is_counted_unless_all_allow():
    roomy, tight = LimitSet(subject="tenant"), LimitSet(subject="key", concurrency=1)
    first = evaluate([roomy, tight], [Counters(), Counters()], 10, NOW)
    assert [c.in_flight for c in first.counters] == [1, 1]
    second = evaluate([roomy, tight], first.counters, 10, NOW)
    assert second.refusal.subject == "key"
    assert second.counters == first.counters


def test_a_soft_quota_is_told_and_not_refused():
    limit = LimitSet(subject="tenant", day=Quota(50, 1000))
    verdict = evaluate([limit], [Counters(day_tokens=45)], 10, NOW)
    assert verdict.allowed
    assert verdict.soft == ("tenant.day_tokens",)


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        (dt.datetime(2026, 12, 31, 23, 59, 59, tzinfo=dt.UTC), 1, 1),
        (dt.datetime(2028, 2, 29, 0, 0, tzinfo=dt.UTC), 86_400, 86_400),
        (dt.datetime(2026, 3, 1, 1, 0, tzinfo=dt.timezone(dt.timedelta(hours=2))), 3600, 3600),
    ],
)
def test_periods_are_utc_days_and_months(now, day, month):
    assert until_next_day(now).total_seconds() == day
    assert until_next_month(now).total_seconds() == month


async def test_a_key_is_limited_by_its_tenant_and_a_tenant_by_operators(api):
    caller, operator = await api.caller(), await api.operator()
    path = f"/v1/limits/{caller.key_id}"
    assert (await api.send(caller, "GET", path)).status_code == 404
    body = {"requests_per_second": 5, "day_tokens_soft": 10, "day_tokens_hard": 20}
    made = await api.send(caller, "PUT", path, body)
    assert made.status_code == 200
    assert (await api.send(caller, "PUT", path, body)).status_code == 428
    again = await api.send(caller, "PUT", path, {"concurrency": 1}, if_match=made.headers["etag"])
    assert again.json()["requests_per_second"] is None
    assert (await api.send(caller, "PUT", "/v1/limits/tenant", body)).status_code == 403
    set_ = await api.send(
        operator, "PUT", "/v1/limits/tenant", body, prefill_tenant=caller.tenant_id
    )
    assert set_.json()["tenant_id"] == caller.tenant_id
    listed = (await api.send(caller, "GET", "/v1/limits")).json()["items"]
    assert {row["key_id"] for row in listed} == {None, caller.key_id}
    assert (await api.send(caller, "DELETE", path)).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {"requests_burst": 5},
        {"day_tokens_soft": 2, "day_tokens_hard": 1},
        {"requests_per_second": 0},
        {"concurrency": -1},
        {"concurrency": 1.5},
        {"tokens_per_second": 10**30},
    ],
)
async def test_limits_that_cannot_be_are_refused(api, body):
    caller = await api.caller()
    refused = await api.send(caller, "PUT", f"/v1/limits/{caller.key_id}", body)
    assert refused.status_code == 422
