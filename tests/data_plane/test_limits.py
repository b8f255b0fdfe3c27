"""The one evaluation of limits, against an oracle that counts tokens one by one."""

import datetime as dt
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefill_data.limits.buckets import (
    TENANT_ITSELF,
    Bucket,
    BucketId,
    Charge,
    Limit,
    Subject,
    charges_of,
)
from prefill_data.limits.evaluate import (
    NEVER_US,
    Allowed,
    Refused,
    Short,
    Standing,
    evaluate,
)
from prefill_data.limits.ledger import LEASE_US, Ask, Ledger
from prefill_fleet.snapshot import LimitNumbers
from prefill_wire.status import StatusCode

SECOND_US = 1_000_000
NOW_US = 1_800_000_000 * SECOND_US
WHOLE = LimitNumbers(
    requests_per_second=10, requests_burst=20, tokens_per_second=1000, tokens_burst=5000,
    concurrency=4, day_tokens_soft=80, day_tokens_hard=100, month_tokens_hard=1000,
)  # fmt: skip


def ms(*moment):
    return int(dt.datetime(*moment, tzinfo=dt.UTC).timestamp() * 1000)


def bucket(limit=Limit.REQUESTS, rate=10, capacity=20, **fields):
    return Bucket(BucketId("acme", TENANT_ITSELF, limit), rate, capacity, **fields)


def quota(capacity=100):
    return bucket(Limit.DAY_TOKENS, 0, capacity, ends_at_ms=NOW_US // 1000 + 3600_000)


def test_every_limit_that_is_set_is_charged_in_order_tenant_before_key():
    key = LimitNumbers(requests_per_second=1, concurrency=2)
    subjects = (Subject("acme", TENANT_ITSELF, WHOLE), Subject("acme", "key_1", key))
    found = charges_of(subjects, 50, NOW_US // 1000)
    assert [(c.bucket.id.limit, c.bucket.id.subject, c.cost) for c in found] == [
        (Limit.CONCURRENCY, "-", 1),
        (Limit.CONCURRENCY, "key_1", 1),
        (Limit.REQUESTS, "-", 1),
        (Limit.REQUESTS, "key_1", 1),
        (Limit.TOKENS, "-", 50),
        (Limit.DAY_TOKENS, "-", 50),
        (Limit.MONTH_TOKENS, "-", 50),
    ]
    assert charges_of((Subject("acme", TENANT_ITSELF, LimitNumbers()),), 50, 0) == ()


@pytest.mark.parametrize(
    ("now", "day", "day_ends", "month", "month_ends"),
    [
        (ms(2026, 12, 31, 23, 59, 59), "2026-12-31", ms(2027, 1, 1), "2026-12", ms(2027, 1, 1)),
        (ms(2027, 1, 1), "2027-01-01", ms(2027, 1, 2), "2027-01", ms(2027, 2, 1)),
        (ms(2028, 2, 29, 12), "2028-02-29", ms(2028, 3, 1), "2028-02", ms(2028, 3, 1)),
        (ms(2026, 3, 29, 1, 30), "2026-03-29", ms(2026, 3, 30), "2026-03", ms(2026, 4, 1)),
    ],
)
def test_periods_are_utc_days_and_months(now, day, day_ends, month, month_ends):
    found = charges_of((Subject("acme", TENANT_ITSELF, WHOLE),), 1, now)[-2:]
    periods = [(c.bucket.id.period, c.bucket.ends_at_ms) for c in found]
    assert periods == [(day, day_ends), (month, month_ends)]


def test_a_tenants_bucket_is_no_other_tenants_or_keys_bucket():
    names = {
        BucketId(tenant, subject, limit, period).name
        for tenant in ("a", "b")
        for subject in ("-", "key_1")
        for limit in Limit
        for period in ("", "2026-01")
    }
    assert len(names) == 2 * 2 * len(Limit) * 2
    assert all(":a:" in name or ":b:" in name for name in names)


@pytest.mark.parametrize(
    ("found", "standing", "cost", "expected"),
    [
        (bucket(), Standing(1), 1, Allowed()),
        (bucket(), Standing(0), 1, "short"),
        (bucket(), Standing(0, retry_at_us=NOW_US), 1, "short"),
        (bucket(), Standing(0, retry_at_us=NOW_US + 7), 1, 7),
        (bucket(), Standing(1, retry_at_us=NOW_US + 7), 1, Allowed()),
        (bucket(), Standing(20), 21, NEVER_US),
        (bucket(capacity=0), Standing(0), 1, NEVER_US),
        (quota(), Standing(0, retry_at_us=NOW_US + 7), 1, 3600 * SECOND_US),
    ],
)
def test_the_verdict_on_one_bucket(found, standing, cost, expected):
    charge = Charge(found, cost)
    verdict = evaluate([charge], [standing], NOW_US)
    if isinstance(expected, int):
        assert verdict == Refused(charge, expected)
    else:
        assert verdict == (Short((charge,)) if expected == "short" else expected)


def test_the_first_refusal_is_named_and_goes_before_asking():
    one, two, three = Charge(bucket(), 1), Charge(bucket(Limit.TOKENS), 2), Charge(quota(), 2)
    refusing = Standing(0, retry_at_us=NOW_US + 5)
    verdict = evaluate([one, two, three], [Standing(0), refusing, refusing], NOW_US)
    assert verdict == Refused(two, 5)


def test_beyond_the_soft_number_is_told_and_not_refused():
    charge = Charge(quota(), 10, soft=80)
    assert evaluate([charge], [Standing(30, used=70)], NOW_US).soft == ()
    assert evaluate([charge], [Standing(29, used=71)], NOW_US).soft == (charge.bucket,)


@pytest.mark.parametrize(
    ("found", "cost", "after_us", "code", "words", "retry_ms"),
    [
        (bucket(), 1, 1_500, StatusCode.RATE_LIMITED, "limit 20 at once and 10 a second", 2),
        (bucket(Limit.CONCURRENCY, 0, 4), 1, 50_000, StatusCode.RATE_LIMITED, "limit 4", 50),
        (quota(), 7, 10**6, StatusCode.QUOTA_EXCEEDED, "this request takes 7", 1000),
        (quota(5), 7, NEVER_US, StatusCode.QUOTA_EXCEEDED, "limit 5", 0),
    ],
)
def test_a_refusal_carries_its_numbers(found, cost, after_us, code, words, retry_ms):
    error = Refused(Charge(found, cost), after_us).error()
    assert error.code is code
    assert words in error.message
    assert error.retry_after_ms == retry_ms


class Oracle:
    """A bucket of tokens that drip one by one, in fractions: slow and obvious."""

    def __init__(self, rate, capacity, now_us):
        self.rate, self.capacity = Fraction(rate, SECOND_US), capacity
        self.tokens, self.at_us = Fraction(capacity), now_us

    def take(self, cost, now_us):
        dripped = self.rate * (now_us - self.at_us)
        self.tokens, self.at_us = min(Fraction(self.capacity), self.tokens + dripped), now_us
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


@given(
    rate=st.integers(1, 10**6),
    capacity=st.integers(1, 10**6),
    steps=st.lists(
        st.tuples(st.integers(0, 3 * SECOND_US), st.integers(1, 10**6)), min_size=1, max_size=60
    ),
)
@settings(max_examples=120, deadline=None)
def test_units_spent_at_once_are_granted_exactly_as_by_the_oracle(rate, capacity, steps):
    oracle, ledger = Oracle(rate, capacity, NOW_US), Ledger(at_us=NOW_US)
    found, now_us = bucket(rate=rate, capacity=capacity), NOW_US
    for pause_us, cost in steps:
        now_us += pause_us
        answer = ledger.ask("gw", Ask(found, want=cost, least=cost), now_us)
        assert (answer.granted == cost) is oracle.take(cost, now_us)
        if answer.granted:
            ledger.ask("gw", Ask(found, keep=0), now_us)
        elif cost <= capacity:  # the wait that was told is enough, and a microsecond less is not
            early = Ledger(ledger.debt, ledger.at_us)
            late = Ledger(ledger.debt, ledger.at_us)
            wait, ask = answer.wait_us, Ask(found, want=cost, least=cost)
            assert early.ask("gw", ask, now_us + wait - 1).granted == 0
            assert late.ask("gw", ask, now_us + wait).granted == cost


HOLDERS = ("one", "two", "three")
WHAT = st.tuples(
    st.sampled_from(HOLDERS),
    st.integers(0, 2 * LEASE_US),  # pause
    st.integers(0, 50),  # want
    st.integers(0, 50),  # least
    st.floats(0, 1),  # share of what is held that was spent
    st.floats(0, 1),  # share of the rest that goes back
)


@given(rate=st.integers(0, 100), capacity=st.integers(0, 100), steps=st.lists(WHAT, max_size=80))
@settings(max_examples=120, deadline=None)
def test_spending_never_exceeds_capacity_and_rate_in_any_window(rate, capacity, steps):
    """Whatever gateways hold, spend, give back or lose, from any moment to any later one."""
    found, ledger, now_us = bucket(rate=rate, capacity=capacity), Ledger(at_us=NOW_US), NOW_US
    held = dict.fromkeys(HOLDERS, (0, 0))
    spent = []
    for holder, pause_us, want, least, spend, back in steps:
        now_us += pause_us
        units, until_us = held[holder]
        if now_us >= until_us:  # a gateway keeps to its lease, and may have spent up to its end
            spent.append((until_us - 1, units))
            units = 0
        used = int(units * spend)
        spent.append((now_us, used))
        returned = int((units - used) * back)
        keep = units - used - returned
        answer = ledger.ask(holder, Ask(found, keep, returned, want=want, least=least), now_us)
        assert 0 <= answer.granted <= want
        held[holder] = (keep + answer.granted, now_us + LEASE_US)
    spent.sort()
    for start in range(len(spent)):
        total = 0
        for at_us, used in spent[start:]:
            total += used
            window_us = at_us - spent[start][0]
            assert total * SECOND_US <= capacity * SECOND_US + rate * window_us


@given(capacity=st.integers(0, 20), steps=st.lists(WHAT, max_size=80))
@settings(max_examples=100, deadline=None)
def test_places_are_never_more_than_there_are_and_come_back_from_the_silent(capacity, steps):
    found = bucket(Limit.CONCURRENCY, 0, capacity, lent=True)
    ledger, now_us = Ledger(at_us=NOW_US), NOW_US
    held = dict.fromkeys(HOLDERS, (0, 0))
    for holder, pause_us, want, least, _, back in steps:
        now_us += pause_us
        units, until_us = held[holder]
        units = units if now_us < until_us else 0
        returned = int(units * back)
        ask = Ask(found, units - returned, returned, want=want, least=least)
        answer = ledger.ask(holder, ask, now_us)
        held[holder] = (units - returned + answer.granted, now_us + LEASE_US)
        assert sum(n for n, until in held.values() if now_us < until) <= capacity
    everybody_silent = now_us + LEASE_US
    assert ledger.ask("new", Ask(found, want=capacity), everybody_silent).granted == capacity
