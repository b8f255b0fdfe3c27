"""Management without an API: what is sent again, what never leaves, what is never shown."""

import asyncio
import datetime as dt
import logging
import subprocess
import sys

import httpx
import msgspec
import pytest
from prefill_cloud.clock import Clock
from prefill_cloud.manage import (
    ANY_VERSION,
    AsyncManagementClient,
    KeyValues,
    ManagementClient,
    Patience,
    Secret,
    errors,
)
from prefill_cloud.manage.answers import retry_after_seconds
from prefill_cloud.manage.calls import Page, listing, place
from prefill_cloud.manage.tenants import Tenant

CREDENTIAL = "pck_a-credential-that-nobody-may-see"
TENANT = {
    "id": "ten_a", "name": "A", "state": "active", "reason": "", "version": 3,
    "created_at": "2026-01-01T00:00:00Z", "closed_at": None,
}  # fmt: skip
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LOST = httpx.ReadError("connection reset")
UNREACHED = httpx.ConnectError("connection refused")


class Network(httpx.AsyncBaseTransport):
    """Answers from a script; `requests` is what left. An exception in the script is raised."""

    def __init__(self, *script):
        self.script, self.requests = list(script), []

    async def handle_async_request(self, request):
        await request.aread()
        self.requests.append(request)
        entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(entry, Exception):
            raise entry
        status, body, headers = entry
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return httpx.Response(status, content=content, headers=headers)

    def header(self, name):
        return [request.headers.get(name) for request in self.requests]


class Time:
    """A clock that stands still but for its sleeps."""

    def __init__(self):
        self.slept, self.at = [], 0.0

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.at += seconds

    def clock(self):
        return Clock(
            monotonic=lambda: self.at,
            unix_ms=lambda: int(NOON.timestamp() * 1000),
            sleep=self.sleep,
        )


def ok(body=TENANT, status=200):
    return status, body, {}


def problem(code, status, **headers):
    body = {"code": code, "detail": "words", "remedy": "Do this.", "request_id": "req_1"}
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def wired():
    """`wired(script...)` -> client, network, time; closed at the end."""
    clients = []

    def made(*script, **patience):
        network, time = Network(*script), Time()
        client = AsyncManagementClient(
            "https://api.example",
            CREDENTIAL,
            patience=Patience(**patience),
            clock=time.clock(),
            transport=network,
        )
        clients.append(client)
        return client, network, time

    yield made
    with asyncio.Runner() as runner:
        for client in clients:
            runner.run(client.close())


async def test_a_creation_keeps_its_key_over_every_try(wired):
    busy = problem("UNAVAILABLE", 503)
    client, network, _ = wired(UNREACHED, LOST, busy, problem("INTERNAL", 500), ok(status=201))
    assert (await client.tenants.create("A")).id == "ten_a"
    keys = network.header("idempotency-key")
    assert len(keys) == 5
    assert len(set(keys)) == 1
    await client.tenants.create("A")
    assert network.header("idempotency-key")[-1] != keys[0]
    await client.tenants.create("A", idempotency_key="mine")
    assert network.header("idempotency-key")[-1] == "mine"


async def test_what_only_reads_carries_no_key(wired):
    client, network, _ = wired(ok({"status": "VALID", "key_id": "", "tenant_id": "", "scopes": []}))
    await client.keys.check("pck_x")
    assert network.header("idempotency-key") == [None]


async def test_a_sign_in_is_repeated_only_if_it_was_not_received(wired):
    session = {"token": "pcs_t", "member_id": "mem_a", "expires_at": "2026-01-01T00:00:00Z"}
    typed = {"tenant_id": "ten_a", "email": "a@b.c", "password": "correct horse"}
    client, network, _ = wired(UNREACHED, ok(session))
    assert (await client.sessions.create(**typed)).token == Secret("pcs_t")
    client, network, _ = wired(LOST, ok(session))
    with pytest.raises(errors.UnreachableError):
        await client.sessions.create(**typed)
    assert len(network.requests) == 1


@pytest.mark.parametrize("code", ["RATE_LIMITED", "UNAVAILABLE"])
async def test_retry_after_is_kept(wired, code):
    status = {"RATE_LIMITED": 429, "UNAVAILABLE": 503}[code]
    client, _, time = wired(problem(code, status, retry_after="7"), ok())
    await client.tenants.read("ten_a")
    assert time.slept == [7.0]


async def test_a_wait_beyond_the_deadline_is_refused_at_once(wired):
    client, network, time = wired(problem("RATE_LIMITED", 429, retry_after="61"))
    with pytest.raises(errors.LimitedError) as refused:
        await client.tenants.read("ten_a")
    assert (refused.value.retry_after_seconds, len(network.requests), time.slept) == (61.0, 1, [])


@pytest.mark.parametrize(
    ("code", "status"),
    [("QUOTA_EXCEEDED", 429), ("NAME_TAKEN", 409), ("VALIDATION_FAILED", 422), ("NEWER", 418)],
)
async def test_a_refusal_is_final(wired, code, status):
    client, network, _ = wired(problem(code, status))
    with pytest.raises(errors.ManagementError) as refused:
        await client.tenants.create("A")
    assert len(network.requests) == 1
    assert (refused.value.code, refused.value.request_id) == (code, "req_1")
    assert refused.value.message == f"words ({code}, req_1)"
    assert refused.value.remedy == "Do this."


async def test_tries_end_by_number_and_by_deadline(wired):
    client, network, _ = wired(UNREACHED, tries=4)
    with pytest.raises(errors.UnreachableError, match="connection refused"):
        await client.tenants.read("ten_a")
    assert len(network.requests) == 4
    client, network, time = wired(UNREACHED, tries=1000, deadline_seconds=20.0)
    with pytest.raises(errors.UnreachableError):
        await client.tenants.read("ten_a")
    assert 10.0 < time.at <= 20.0


async def test_silence_ends_by_the_deadline():
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.Event().wait()

    patience = Patience(deadline_seconds=0.05)
    client = AsyncManagementClient(
        "https://api.example", CREDENTIAL, patience=patience, transport=Silent()
    )
    async with client:
        with pytest.raises(errors.UnreachableError) as late:
            await client.tenants.read("ten_a")
    assert late.value.code == "DEADLINE_EXCEEDED"


async def test_a_deletion_whose_answer_was_lost_is_done(wired):
    client, _, _ = wired(LOST, problem("NOT_FOUND", 404))
    assert await client.members.delete("mem_a") is None
    for first in (UNREACHED, problem("RATE_LIMITED", 429)):  # neither can have deleted it
        client, _, _ = wired(first, problem("NOT_FOUND", 404))
        with pytest.raises(errors.NotFoundError):
            await client.members.delete("mem_a")


async def test_a_change_whose_answer_was_lost_says_so(wired):
    changed = problem("PRECONDITION_FAILED", 412)
    client, _, _ = wired(LOST, changed)
    with pytest.raises(errors.ChangedMeanwhileError) as told:
        await client.tenants.update("ten_a", name="B", version=3)
    assert "an earlier try" in told.value.remedy
    client, _, _ = wired(changed)
    with pytest.raises(errors.ChangedMeanwhileError) as told:
        await client.tenants.update("ten_a", name="B", version=3)
    assert told.value.remedy == "Do this."


async def test_versions_become_if_match(wired):
    client, network, _ = wired(ok())
    await client.tenants.update("ten_a", name="B", version=3)
    await client.tenants.update("ten_a", name="B", version=ANY_VERSION)
    assert network.header("if-match") == ['"3"', "*"]


async def test_pages_follow_cursors_and_never_go_in_circles(wired):
    pages = [{"items": [TENANT], "next_cursor": cursor} for cursor in ("one", "two", "")]
    client, network, _ = wired(*[ok(page) for page in pages])
    assert [row.id async for row in client.tenants.list(state="active")] == ["ten_a"] * 3
    asked = [dict(request.url.params) for request in network.requests]
    assert [query.get("cursor") for query in asked] == [None, "one", "two"]
    assert {query["state"] for query in asked} == {"active"}
    client, _, _ = wired(ok(pages[0]))
    with pytest.raises(errors.StrangeAnswerError, match="names itself"):
        [row async for row in client.tenants.list()]


async def test_one_page_is_asked_with_its_size(wired):
    client, network, _ = wired(ok({"items": [TENANT], "next_cursor": "on"}))
    page = await client.tenants.list().page(limit=1)
    assert isinstance(page, Page)
    assert (page.next_cursor, network.requests[0].url.params["limit"]) == ("on", "1")
    for rows in (0, 201):
        with pytest.raises(errors.InvalidInputError):
            await client.tenants.list().page(limit=rows)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ((200, b"<html>", {}), errors.StrangeAnswerError),
        ((200, {"id": 5}, {}), errors.StrangeAnswerError),
        ((302, b"", {"location": "https://elsewhere.example"}), errors.StrangeAnswerError),
        ((404, b"<html>", {}), errors.StrangeAnswerError),
        ((502, b"<html>", {}), errors.UnreachableError),
        ((200, b"x" * (33 << 20), {}), errors.StrangeAnswerError),
        ((200, b"no gzip", {"content-encoding": "gzip"}), errors.UnreachableError),
    ],
    ids=["html", "other type", "redirect", "not found", "gateway", "endless", "damaged"],
)
async def test_an_answer_of_somebody_else_is_told(wired, entry, kind):
    client, network, _ = wired(entry, tries=1)
    with pytest.raises(kind):
        await client.tenants.read("ten_a")
    assert len(network.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example", "http://10.0.0.1:80", "http://127.0.0.1.example", "ftp://api.example",
        "api.example", "https://", "https://user:pw@api.example", "https://api.example/v1",
        "https://api.example?x=1", "https://api.example:99999", "https://a b", "https://[::1", "",
    ],
)  # fmt: skip
def test_a_url_that_leaks_or_cannot_be_is_refused(url):
    with pytest.raises(errors.InvalidInputError) as refused:
        AsyncManagementClient(url, CREDENTIAL)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://[::1]:80/", "http://localhost", "https://api.example/"]
)
async def test_plain_text_stays_on_this_machine(url):
    async with AsyncManagementClient(url, CREDENTIAL) as client:
        assert client.base_url == url.rstrip("/")


@pytest.mark.parametrize("credential", ["", "with\nnewline", "schlüssel"])
def test_a_credential_that_is_no_header_is_refused(credential):
    with pytest.raises(errors.InvalidInputError):
        AsyncManagementClient("https://api.example", credential)


def test_roots_that_are_no_certificates_are_refused():
    with pytest.raises(errors.InvalidInputError, match="tls_roots"):
        AsyncManagementClient("https://api.example", CREDENTIAL, tls_roots=b"nonsense")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_an_id_names_no_other_place(name):
    with pytest.raises(errors.InvalidInputError):
        place("keys", name)


def test_an_id_is_one_part_of_the_path():
    assert place("keys", "a/../b?c#d") == "/v1/keys/a%2F..%2Fb%3Fc%23d"


def test_filters_leave_out_what_is_empty_and_repeat_what_is_many():
    filters = {"a": "", "b": None, "c": ["x", "y"], "d": NOON, "e": "z"}
    query = listing(Tenant, "tenants", filters).first.query
    assert query == (("c", "x"), ("c", "y"), ("d", "2026-01-01T12:00:00+00:00"), ("e", "z"))
    with pytest.raises(errors.InvalidInputError, match="no time zone"):
        listing(Tenant, "tenants", {"since": NOON.replace(tzinfo=None)})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0), (" 7 ", 7.0), ("", 0.0), ("soon", 0.0), ("-3", 0.0), ("9" * 40, 86_400.0),
        ("Thu, 01 Jan 2026 12:00:09 GMT", 9.0), ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert retry_after_seconds(text, NOON) == seconds


async def test_nothing_shows_a_secret(wired, caplog):
    issued = {"key": None, "secret": "pck_fresh"}
    client, network, _ = wired(LOST, ok(issued, 201))
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(errors.StrangeAnswerError) as refused:
            await client.keys.create(KeyValues(name="n", scopes=["prefill"]))
        call = client.members.set_password
        with pytest.raises(errors.StrangeAnswerError):
            await call("mem_a", "the password of ada")
    shown = caplog.text + repr(client) + repr(refused.value) + str(Secret("pck_fresh"))
    assert "sent again" in caplog.text
    for secret in (CREDENTIAL, "pck_fresh", "password of ada"):
        assert secret not in shown
    assert network.header("authorization")[0] == f"Bearer {CREDENTIAL}"


def test_the_blocking_client_is_the_same_client():
    network = Network(ok())
    with ManagementClient("https://api.example", CREDENTIAL, transport=network) as client:
        assert client.tenants.read("ten_a") == msgspec.convert(TENANT, Tenant)
        client.for_tenant("ten_b").tenants.read("ten_a")
        network.script = [ok({"items": [TENANT, TENANT], "next_cursor": ""})]
        assert [row.id for row in client.tenants.list()] == ["ten_a", "ten_a"]
        assert CREDENTIAL not in repr(client)
    assert network.header("prefill-tenant") == [None, "ten_b", None]
    client.close()


async def test_verbs_keep_their_words():
    client = AsyncManagementClient("https://api.example", CREDENTIAL)
    assert client.keys.revoke.__doc__.startswith("Revoke for good")
    assert type(client.keys).revoke.operation == "revokeKey"
    await client.close()


def test_the_import_of_the_sdk_brings_no_http_client():
    program = "import sys, prefill_cloud; print('httpx' in sys.modules)"
    twin = "import sys, prefill_cloud.manage; print('httpx' in sys.modules)"
    told = [
        subprocess.run(
            [sys.executable, "-c", each], capture_output=True, text=True, check=True
        ).stdout.strip()
        for each in (program, twin)
    ]
    assert told == ["False", "True"]
