"""Receipts: believed by signature, counted exactly once, summed by what is asked."""

import asyncio
import base64
import datetime as dt
import os
from dataclasses import replace

import pytest
from control_api import CONTROL, FLEET_TOKEN
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.ids import new_receipt_id, new_request_id
from prefill_wire.receipt import UsageReceipt, sign_receipt
from prefill_wire.signing import SigningKey

WORKER = SigningKey.generate()
STRANGER = SigningKey.generate()
FLEET = {"prefill-fleet-token": FLEET_TOKEN.hex()}
READER = ("usage:read", "account:read")


def milliseconds(at):
    return int(at.timestamp() * 1000)


def certificate(api, control=CONTROL, **changes):
    made = WorkerCertificate(
        worker_id="worker-0",
        datacenter="ams",
        public_key=WORKER.public_bytes,
        not_before_ms=milliseconds(api.now - dt.timedelta(days=1)),
        not_after_ms=milliseconds(api.now + dt.timedelta(days=1)),
    )
    return issue_certificate(control, replace(made, **changes))


def receipt(api, caller, **changes):
    made = UsageReceipt(
        receipt_id=new_receipt_id(os.urandom), request_id=new_request_id(os.urandom), attempt=1,
        fencing_epoch=1, tenant=caller.tenant_id, key_id=caller.key_id, model="kimi",
        model_fingerprint=b"f" * 32, datacenter="ams", worker_id="worker-0", token_count=1000,
        cached_tokens=400, state_bytes_raw=9000, state_bytes_sent=5000, root=b"r" * 32,
        started_at_ms=milliseconds(api.now) - 700, finished_at_ms=milliseconds(api.now),
        queue_us=10, prefill_us=20, encode_us=30,
    )  # fmt: skip
    return replace(made, **changes)


def line(api, made, key=WORKER, **more):
    signed = sign_receipt(key, made) if isinstance(made, UsageReceipt) else made
    return {
        "receipt": base64.b64encode(signed).decode(),
        "certificate": base64.b64encode(more.pop("by", None) or certificate(api)).decode(),
        "amount_micros": 77,
        **more,
    }


async def deliver(api, *lines, headers=None):
    answer = await api.client.post(
        "/internal/receipts", json={"lines": list(lines)}, headers=headers or FLEET
    )
    return answer.json().get("lines", answer)


async def totals(api, caller, query=""):
    found = await api.send(caller, "GET", f"/v1/usage{query}")
    return found.json()["items"]


async def test_a_receipt_is_counted_exactly_once_however_often_it_comes(api):
    caller = await api.caller(scopes=READER)
    sent = line(api, receipt(api, caller))
    fates = [judged["fate"] for judged in await deliver(api, sent, sent)]
    assert fates == ["accepted", "duplicate"]
    assert (await deliver(api, sent))[0]["fate"] == "duplicate"
    both = await asyncio.gather(*(deliver(api, line_) for line_ in [sent] * 8))
    assert {answer[0]["fate"] for answer in both} == {"duplicate"}
    (row,) = await totals(api, caller)
    assert row["requests"] == 1
    assert (row["tokens"], row["cached_tokens"], row["amount_micros"]) == (1000, 400, 77)


async def test_the_same_receipt_delivered_at_once_counts_once(api):
    caller = await api.caller(scopes=READER)
    sent = [line(api, receipt(api, caller)) for _ in range(5)]
    answers = await asyncio.gather(*(deliver(api, *order) for order in [sent, sent[::-1]] * 3))
    fates = [judged["fate"] for answer in answers for judged in answer]
    assert fates.count("accepted") == 5
    assert fates.count("duplicate") == 25
    assert (await totals(api, caller))[0]["requests"] == 5


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({}, STRANGER, "signature"),
        ({"worker_id": "worker-9"}, WORKER, "worker"),
        ({"datacenter": "iad"}, WORKER, "datacenter"),
        ({"cached_tokens": 1001}, WORKER, "cached"),
        ({"finished_at_ms": 0}, WORKER, "before it starts"),
        ({"finished_at_ms": 4_000_000_000_000}, WORKER, "future"),
        ({"tenant": "ten_nobody"}, WORKER, "tenant"),
        ({"receipt_id": ""}, WORKER, "names no receipt"),
    ],
)
async def test_a_receipt_that_cannot_be_is_refused_by_reason(api, changes, key, words):
    caller = await api.caller(scopes=READER)
    good = line(api, receipt(api, caller))
    bad = line(api, receipt(api, caller, **changes), key)
    judged = await deliver(api, bad, good)
    assert [one["fate"] for one in judged] == ["refused", "accepted"]
    assert words in judged[0]["reason"]
    assert (await totals(api, caller))[0]["requests"] == 1


async def test_certificates_are_the_control_planes_and_in_time(api):
    caller = await api.caller(scopes=READER)
    forged = certificate(api, STRANGER)
    late = certificate(api, not_after_ms=milliseconds(api.now) - 1)
    for by in (forged, late, b"nonsense"):
        assert (await deliver(api, line(api, receipt(api, caller), by=by)))[0]["fate"] == "refused"
    assert await totals(api, caller) == []


async def test_an_id_used_for_another_receipt_is_a_forgery(api):
    caller = await api.caller(scopes=READER)
    first = receipt(api, caller)
    assert (await deliver(api, line(api, first)))[0]["fate"] == "accepted"
    other = replace(first, token_count=9999)
    judged = (await deliver(api, line(api, other)))[0]
    assert judged["fate"] == "refused"
    assert "another receipt" in judged["reason"]


async def test_only_the_fleet_delivers(api):
    caller, operator = await api.caller(scopes=READER), await api.operator()
    sent = line(api, receipt(api, caller))
    for headers in (caller.headers, operator.headers, {"prefill-fleet-token": "00"}, {"x": "y"}):
        answer = await deliver(api, sent, headers=headers)
        assert answer.status_code == 401


async def test_usage_is_summed_by_what_is_asked(api):
    caller = await api.caller(scopes=READER)
    hour = 3_600_000
    for model, hours in (("kimi", 0), ("kimi", 1), ("other", 30)):
        end = milliseconds(api.now) - hours * hour
        made = receipt(api, caller, model=model, started_at_ms=end - 5, finished_at_ms=end)
        await deliver(api, line(api, made))
    by_model = await totals(api, caller, "?group_by=model")
    assert [(r["group"]["model"], r["requests"]) for r in by_model] == [("kimi", 2), ("other", 1)]
    by_hour = await totals(api, caller, "?group_by=hour&model=kimi")
    assert [r["group"]["hour"] for r in by_hour] == ["2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z"]
    by_month = await totals(api, caller, "?group_by=month&group_by=datacenter")
    groups = [tuple(r["group"].values()) for r in by_month]
    assert groups == [("2026-02", "ams"), ("2026-03", "ams")]
    first = await api.send(caller, "GET", "/v1/usage?group_by=day&limit=1")
    second = await api.send(
        caller, "GET", f"/v1/usage?group_by=day&limit=1&cursor={first.json()['next_cursor']}"
    )
    days = [answer.json()["items"][0]["group"]["day"] for answer in (first, second)]
    assert days == ["2026-02-28", "2026-03-01"]
    assert second.json()["next_cursor"] == ""


async def test_a_request_is_told_with_route_and_timeline_and_no_prompt(api):
    caller, other = await api.caller(scopes=READER), await api.caller(scopes=READER)
    made = receipt(api, caller)
    await deliver(api, line(api, made, route_reason="nearest", timeline={"open_ms": 3}))
    path = f"/v1/requests/{made.request_id}"
    told = (await api.send(caller, "GET", path)).json()
    assert told["route_reason"] == "nearest"
    assert told["timeline"]["open_ms"] == 3
    assert told["timeline"]["prefill_us"] == 20
    assert not {"prompt", "tokens", "token_ids"} & set(told)
    assert (await api.send(other, "GET", path)).status_code == 404
    assert (await api.send(other, "GET", "/v1/receipts")).json()["items"] == []
    key = (await api.send(caller, "GET", f"/v1/keys/{caller.key_id}")).json()
    assert key["last_used_at"] is not None
    assert key["version"] == 1
