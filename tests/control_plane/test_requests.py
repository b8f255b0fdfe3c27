"""What every request is held to: body, ETag, Idempotency-Key, pages, limits, problems, audit."""

import asyncio
import datetime as dt

import asyncpg
import pytest
from control_api import ControlApi
from prefill_control.web.body import deepest

MAKER = ("manage:*", "account:read", "prefill", "audit:read")
KEY = {"name": "ci", "scopes": ["prefill"]}


async def raw(api, caller, content, path="/v1/keys", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    shown = {"content-type": "application/json", **caller.headers, **named}
    return await api.client.post(path, content=content, headers=shown)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "MALFORMED_REQUEST"),
        (b"{", 400, "MALFORMED_REQUEST"),
        (b'{"name": "\xff"}', 400, "MALFORMED_REQUEST"),
        (b"[" * 5000 + b"]" * 5000, 400, "MALFORMED_REQUEST"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, 400, "MALFORMED_REQUEST"),
        (b"[]", 422, "VALIDATION_FAILED"),
        (b"null", 422, "VALIDATION_FAILED"),
        (b'{"name": 1, "scopes": ["prefill"]}', 422, "VALIDATION_FAILED"),
        (b" " * 70_000, 413, "BODY_TOO_LARGE"),
    ],
)
async def test_a_bad_body_is_refused_by_a_code(api, content, status, code):
    caller = await api.caller(scopes=MAKER)
    refused = await raw(api, caller, content)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.json()["request_id"] == refused.headers["x-request-id"]


async def test_a_body_that_grows_while_it_comes_is_cut_off(api):
    caller = await api.caller(scopes=MAKER)
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 10_000

    refused = await raw(api, caller, endless())
    assert refused.status_code == 413
    assert sent < 20


async def test_another_media_type_is_refused(api):
    caller = await api.caller(scopes=MAKER)
    refused = await raw(api, caller, b"name=ci", content_type="application/x-www-form-urlencoded")
    assert refused.status_code == 415


def test_depth_counts_brackets_outside_of_strings():
    assert deepest(b'{"a": [1, {"b": "]]]}}}\\"[[["}]}') == 3
    assert deepest(b'"[[[["') == 0


async def test_a_change_needs_the_version_that_it_is_meant_for(api):
    caller = await api.caller(scopes=MAKER)
    made = await api.send(caller, "POST", "/v1/keys", KEY)
    path = made.headers["location"]
    assert (await api.send(caller, "PUT", path, KEY)).json()["code"] == "PRECONDITION_REQUIRED"
    for etag, code in [('"9"', "PRECONDITION_FAILED"), ('"x"', "INVALID_VALUE"),
                       ("W/", "INVALID_VALUE"), ("1", "INVALID_VALUE")]:  # fmt: skip
        refused = await api.send(caller, "PUT", path, KEY, if_match=etag)
        assert refused.json()["code"] == code, etag
    changed = {**KEY, "name": "cd"}
    done = await api.send(caller, "PUT", path, changed, if_match=made.headers["etag"])
    assert done.headers["etag"] == '"2"'
    stale = await api.send(caller, "PUT", path, KEY, if_match=made.headers["etag"])
    assert stale.status_code == 412


async def test_of_two_changes_at_once_one_wins(api):
    caller = await api.caller(scopes=MAKER)
    made = await api.send(caller, "POST", "/v1/keys", KEY)
    path, etag = made.headers["location"], made.headers["etag"]
    changes = [
        api.send(caller, "PUT", path, {**KEY, "name": f"n{i}"}, if_match=etag) for i in range(6)
    ]
    codes = [answer.status_code for answer in await asyncio.gather(*changes)]
    assert sorted(codes) == [200] + [412] * 5


async def test_the_same_idempotency_key_gives_the_same_answer_once(api, urls):
    caller = await api.caller(scopes=MAKER)
    answers = await asyncio.gather(
        *(api.send(caller, "POST", "/v1/keys", KEY, idempotency_key="once") for _ in range(6))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 6
    replayed = [a.headers.get("idempotency-replayed") for a in answers]
    assert replayed.count("true") == 5
    listed = await api.send(caller, "GET", "/v1/keys")
    assert [key["name"] for key in listed.json()["items"]].count("ci") == 1
    secret = answers[0].json()["secret"]
    connection = await asyncpg.connect(urls.admin)
    sealed = await connection.fetchval("SELECT string_agg(sealed, '') FROM remembered_answers")
    await connection.close()
    assert secret.encode() not in sealed


async def test_an_idempotency_key_is_one_request_of_one_tenant(api):
    caller, other = await api.caller(scopes=MAKER), await api.caller(scopes=MAKER)
    await api.send(caller, "POST", "/v1/keys", KEY, idempotency_key="k")
    changed = {**KEY, "name": "other"}
    conflict = await api.send(caller, "POST", "/v1/keys", changed, idempotency_key="k")
    assert conflict.json()["code"] == "IDEMPOTENCY_CONFLICT"
    theirs = await api.send(other, "POST", "/v1/keys", KEY, idempotency_key="k")
    assert theirs.status_code == 201
    assert "idempotency-replayed" not in theirs.headers
    api.now += dt.timedelta(hours=24)
    late = await api.send(caller, "POST", "/v1/keys", changed, idempotency_key="k")
    assert late.status_code == 201
    bad = await api.send(caller, "POST", "/v1/keys", changed, idempotency_key="x" * 129)
    assert bad.status_code == 422


async def test_a_refusal_is_not_remembered(api):
    caller = await api.caller(scopes=("manage:keys", "account:read"))
    refused = await api.send(caller, "POST", "/v1/keys", KEY, idempotency_key="k")
    assert refused.status_code == 403
    own = {**KEY, "scopes": ["account:read"]}
    assert (await api.send(caller, "POST", "/v1/keys", own, idempotency_key="k")).status_code == 201


async def test_pages_follow_each_other_while_rows_are_added(api):
    caller = await api.caller(scopes=MAKER)
    for number in range(7):
        api.now += dt.timedelta(seconds=1)
        await api.send(caller, "POST", "/v1/keys", {**KEY, "name": f"k{number}"})
    seen, cursor = [], ""
    while True:
        page = (await api.send(caller, "GET", f"/v1/keys?limit=3&cursor={cursor}")).json()
        seen += [key["name"] for key in page["items"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
        await api.send(caller, "POST", "/v1/keys", {**KEY, "name": f"new {len(seen)}"})
    assert [name for name in seen if name.startswith("k") and name[1:].isdigit()] == [
        f"k{number}" for number in range(6, -1, -1)
    ]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "cursor=%00", "cursor=abc",
                                   "cursor=WyJhIiwiYiJd", "state=odd"])  # fmt: skip
async def test_a_page_that_cannot_be_is_refused(api, query):
    caller = await api.caller(scopes=MAKER)
    assert (await api.send(caller, "GET", f"/v1/keys?{query}")).status_code == 422


async def test_the_rate_limit_is_told_and_kept(urls):
    api = ControlApi(urls.app, requests_per_second=1, requests_burst=3)
    caller, other = await api.caller(), await api.caller()
    answers = [await api.send(caller, "GET", "/v1/keys") for _ in range(5)]
    assert [a.status_code for a in answers[:3]] == [200] * 3
    assert [a.headers["ratelimit-remaining"] for a in answers[:3]] == ["2", "1", "0"]
    assert answers[-1].json()["code"] == "RATE_LIMITED"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await api.send(other, "GET", "/v1/keys")).status_code == 200
    guesses = [await api.send(None, "GET", "/v1/keys") for _ in range(5)]
    assert guesses[0].status_code == 401
    assert guesses[-1].status_code == 429
    await api.close()


async def test_every_change_leaves_an_audit_row_and_a_refusal_leaves_none(api):
    caller = await api.caller(scopes=MAKER)
    made = await api.send(caller, "POST", "/v1/keys", KEY)
    await api.send(caller, "POST", "/v1/keys", {**KEY, "scopes": ["platform"]})
    await api.send(caller, "POST", f"{made.headers['location']}/revoke")
    rows = (await api.send(caller, "GET", "/v1/audit-rows?actor_id=" + caller.key_id)).json()
    actions = sorted(row["action"] for row in rows["items"])
    assert actions == ["keys.create", "keys.revoke"]
    revoked = next(row for row in rows["items"] if row["action"] == "keys.revoke")
    assert (revoked["before"]["state"], revoked["after"]["state"]) == ("active", "revoked")
    assert revoked["after"]["key_hash"] == "[redacted]"
    assert revoked["address"] == "127.0.0.1"
    created = next(row for row in rows["items"] if row["action"] == "keys.create")
    assert created["request_id"] == made.headers["x-request-id"]


async def test_without_a_database_it_is_503_with_retry_after(urls):
    api = ControlApi(urls.app.replace("127.0.0.1", "127.0.0.2"))
    secret = api.parts.pepper.new_secret("pck", api.parts.random).text
    headers = {"Authorization": f"Bearer {secret}"}
    for path in ("/v1/keys", "/health/ready"):
        away = await api.client.get(path, headers=headers)
        assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE")
        assert int(away.headers["retry-after"]) >= 1
    assert (await api.client.get("/health/live")).status_code == 200
    await api.close()


async def test_the_open_pages(api):
    metrics = await api.client.get("/metrics")
    assert "prefill_control_database_connections_out 0.0" in metrics.text
    docs = await api.client.get("/docs")
    assert "createKey" in docs.text
    assert "<script" not in docs.text
    document = (await api.client.get("/openapi/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert "/internal/receipts" not in document["paths"]
    lost = await api.client.get("/nowhere")
    assert lost.headers["content-type"] == "application/problem+json"


async def test_every_method_of_a_path_is_told(api):
    asked = await api.client.options("/v1/keys")
    assert asked.headers["allow"] == "GET, OPTIONS, POST"
    refused = await api.client.delete("/v1/keys/key_1")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, OPTIONS, PUT"
