"""Prices: exact integers, validity by date, a tenant's own before the list's."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_control.models.pricing import MILLION, Measure, PriceTerms, cost_micros, in_force

MARCH = dt.datetime(2026, 3, 29, 1, 0, tzinfo=dt.UTC)  # 02:00 does not exist in Berlin
NAMES = ("model-a", "model-b", "model-c", "model-d")


def terms(begin, end=None, miss=200, hit=50):
    return PriceTerms(
        input_miss_micros=miss, input_hit_micros=hit, egress_micros=3, relay_decode_micros=7,
        valid_from=begin, valid_until=end, source="list",
    )  # fmt: skip


def model(name, **more):
    digests = {"fingerprint": "a" * 64, "tokenizer_fingerprint": "b" * 64}
    return {"name": name, "numerics_profile": "fp32", "context_tokens": 4096, **digests, **more}


def price(name, at, miss=1000, hit=100, **more):
    rates = {"input_miss_micros": miss, "input_hit_micros": hit}
    return {"model": name, "valid_from": at.isoformat(), **rates, **more}


@given(
    st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(0, 10**12), st.integers(0, 10**12)
)
def test_a_hit_never_costs_more_than_the_bound(tokens, cached, miss, hit):
    cached, hit = min(cached, tokens), min(hit, miss)
    row = terms(MARCH, miss=miss, hit=hit)
    amount = cost_micros(row, Measure(token_count=tokens, cached_tokens=cached))
    assert 0 <= amount <= cost_micros(row, Measure(token_count=tokens))
    exact = (tokens - cached) * miss + cached * hit
    assert exact <= amount * MILLION < exact + MILLION


def test_the_sum_is_rounded_up_once():
    whole = Measure(token_count=1, cached_tokens=0, egress_bytes=1, relay_decode_tokens=1)
    assert cost_micros(terms(MARCH), whole) == 1
    assert cost_micros(terms(MARCH), Measure(token_count=0)) == 0


def test_terms_hold_from_their_first_instant_to_before_their_last():
    second = dt.timedelta(seconds=1)
    rows = [terms(MARCH, miss=1), terms(MARCH + dt.timedelta(hours=1), miss=2)]
    assert in_force(rows, MARCH - second) is None
    assert in_force(rows, MARCH).input_miss_micros == 1
    assert in_force(rows, MARCH + dt.timedelta(hours=1) - second).input_miss_micros == 1
    assert in_force(rows, MARCH + dt.timedelta(hours=1)).input_miss_micros == 2
    ended = [terms(MARCH, end=MARCH + second)]
    assert in_force(ended, MARCH + second) is None


async def test_a_quote_follows_the_price_in_force(api):
    operator, caller = await api.operator(), await api.caller()
    await api.send(operator, "POST", "/v1/models", model(NAMES[0]))
    ask = {"model": NAMES[0], "token_count": 2_000, "cached_tokens": 1_000}
    none = await api.send(caller, "POST", "/v1/quotes", ask)
    assert none.json()["code"] == "NO_PRICE"
    hour = dt.timedelta(hours=1)
    await api.send(operator, "POST", "/v1/prices", price(NAMES[0], api.now))
    later = price(NAMES[0], api.now + hour, 5000, 5000)
    await api.send(operator, "POST", "/v1/prices", later)
    now = (await api.send(caller, "POST", "/v1/quotes", ask)).json()
    assert (now["amount_micros"], now["bound_micros"]) == (2, 2)
    api.now += hour
    then = (await api.send(caller, "POST", "/v1/quotes", ask)).json()
    assert (then["amount_micros"], then["bound_micros"]) == (10, 10)
    mine = price(NAMES[0], api.now, 7, 7, valid_until=(api.now + hour).isoformat())
    await api.send(operator, "POST", "/v1/price-overrides", mine, prefill_tenant=caller.tenant_id)
    own = (await api.send(caller, "POST", "/v1/quotes", ask)).json()
    assert (own["source"], own["amount_micros"]) == ("override", 1)
    other = await api.caller()
    assert (await api.send(other, "POST", "/v1/quotes", ask)).json()["source"] == "list"
    api.now += hour
    assert (await api.send(caller, "POST", "/v1/quotes", ask)).json()["source"] == "list"


async def test_the_past_is_never_priced_anew(api):
    operator = await api.operator()
    await api.send(operator, "POST", "/v1/models", model(NAMES[1]))
    past = price(NAMES[1], api.now - dt.timedelta(seconds=1))
    assert (await api.send(operator, "POST", "/v1/prices", past)).status_code == 422
    same = price(NAMES[1], api.now)
    assert (await api.send(operator, "POST", "/v1/prices", same)).status_code == 201
    assert (await api.send(operator, "POST", "/v1/prices", same)).status_code == 409


@pytest.mark.parametrize(
    "change",
    [
        {"input_hit_micros": 2000},
        {"input_miss_micros": -1},
        {"input_miss_micros": 1.5},
        {"input_miss_micros": "1000"},
        {"valid_from": "2030-01-01T00:00:00"},
        {"currency": "EUR"},
    ],
)
async def test_prices_that_cannot_be_are_refused(api, change):
    operator = await api.operator()
    await api.send(operator, "POST", "/v1/models", model(NAMES[2]))
    body = {**price(NAMES[2], api.now), **change}
    assert (await api.send(operator, "POST", "/v1/prices", body)).status_code == 422


async def test_a_model_names_codecs_that_there_are(api):
    operator = await api.operator()
    unknown = await api.send(
        operator, "POST", "/v1/models", model(NAMES[2], codecs=["raw", "gzip"])
    )
    assert unknown.status_code == 422
    assert "expected one of raw, planes-zstd" in unknown.text
    known = await api.send(operator, "POST", "/v1/models", model("named", codecs=["raw"]))
    assert known.json()["codecs"] == ["raw"]


async def test_a_restricted_model_is_there_for_who_was_granted_it(api):
    operator, caller, other = await api.operator(), await api.caller(), await api.caller()
    await api.send(operator, "POST", "/v1/models", model(NAMES[3], restricted=True))
    path = f"/v1/models/{NAMES[3]}"
    hidden = await api.send(caller, "GET", path)
    absent = await api.send(caller, "GET", "/v1/models/absent")
    bodies = [{k: v for k, v in r.json().items() if k != "request_id"} for r in (hidden, absent)]
    assert bodies[0] == bodies[1]
    grant = await api.send(
        operator, "POST", "/v1/model-grants", {"model": NAMES[3]}, prefill_tenant=caller.tenant_id
    )
    assert (await api.send(caller, "GET", path)).status_code == 200
    assert (await api.send(other, "GET", path)).status_code == 404
    await api.send(operator, "DELETE", f"/v1/model-grants/{grant.json()['id']}")
    assert (await api.send(caller, "GET", path)).status_code == 404
