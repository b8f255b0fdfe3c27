"""A lock, its length and its end are the same for an address that somebody has and one that nobody
has: neither tells whether it exists."""

import asyncio
import datetime as dt
from collections import Counter

import asyncpg
import pytest
from argon2 import PasswordHasher
from prefill_control.access.scopes import Scope
from prefill_control.members import sign_in
from prefill_control.members.sign_in import FREE_TRIES

PASSWORD, WRONG = "correct horse battery", "a wrong password"
ADMIN = [s for s in Scope if s is not Scope.PLATFORM]
OF_ONE_ANSWER = {"x-request-id", "ratelimit-remaining", "ratelimit-reset"}


async def attempt(api, tenant_id, email, password=WRONG):
    """All that a caller sees of a sign-in, and how long it may be locked."""
    body = {"tenant_id": tenant_id, "email": email, "password": password}
    answer = await api.client.post("/v1/sessions", json=body)
    told = {name: value for name, value in answer.json().items() if name != "request_id"}
    headers = {n: v for n, v in answer.headers.items() if n not in OF_ONE_ANSWER}
    if answer.status_code == 201:
        return 201, {}, {}
    return answer.status_code, told, headers


async def member(api, email="ada@example.com", **more):
    """An admin's caller and the path of a fresh member with a password."""
    caller = await api.caller(scopes=ADMIN)
    made = {"email": email, "name": "Ada", "role": "viewer", "password": PASSWORD, **more}
    answer = await api.send(caller, "POST", "/v1/members", made)
    assert answer.status_code == 201
    return caller, answer.headers["location"]


@pytest.fixture
def hashes(monkeypatch):
    """How many hashes were computed."""
    found, verify = [], PasswordHasher.verify

    def counted(hasher, stored, password):
        found.append(stored)
        return verify(hasher, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    return found


async def seen(api, hashes, tenant_id, email):
    """What one sees who keeps guessing: answers and work, through two locks."""
    hashes.clear()
    found = []
    for minutes in (0, 0, 0, 0, 0, 0, 1.1, 0, 2.1, 0):
        api.now += dt.timedelta(minutes=minutes)
        found.append((*(await attempt(api, tenant_id, email)), len(hashes)))
    return found


async def test_a_stranger_is_locked_as_a_member_is(api, hashes):
    caller, _ = await member(api)
    nobody_without = await member(api, "eve@example.com", password=None)
    known = await seen(api, hashes, caller.tenant_id, "ada@example.com")
    assert [status for status, *_ in known] == [401] * 5 + [429, 401, 429, 401, 429]
    assert len({work for *_, work in known}) == 7  # a locked one costs no hash
    for tenant_id, email in (
        (caller.tenant_id, "nobody@example.com"),
        ("ten_absent", "ada@example.com"),
        (nobody_without[0].tenant_id, "eve@example.com"),
    ):
        assert await seen(api, hashes, tenant_id, email) == known, (tenant_id, email)


async def test_the_comparison_tells_a_lock_from_none(api, hashes):
    caller, _ = await member(api)
    for _ in range(FREE_TRIES):
        await attempt(api, caller.tenant_id, "ada@example.com")
    locked = await attempt(api, caller.tenant_id, "ada@example.com")
    assert locked[0] == 429
    assert locked[2]["retry-after"]
    assert await attempt(api, caller.tenant_id, "bob@example.com") != locked


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
async def test_guesses_at_once_get_no_more_tries(api, email):
    caller, _ = await member(api)
    guesses = [attempt(api, caller.tenant_id, email) for _ in range(FREE_TRIES + 4)]
    statuses = Counter(status for status, *_ in await asyncio.gather(*guesses))
    assert statuses == {401: FREE_TRIES, 429: 4}


async def test_a_lock_is_of_one_tenant_and_address(api):
    caller, _ = await member(api)
    for tenant_id, email in ((caller.tenant_id, "bob@example.com"), ("ten_x", "ada@example.com")):
        for _ in range(FREE_TRIES):
            await attempt(api, tenant_id, email)
        assert (await attempt(api, tenant_id, email))[0] == 429
    assert (await attempt(api, caller.tenant_id, "Ada@example.com", PASSWORD))[0] == 201


async def test_a_success_and_a_new_password_end_what_was_counted(api):
    caller, path = await member(api)
    for tries in (FREE_TRIES - 1, FREE_TRIES - 1):  # together more than are free
        for _ in range(tries):
            assert (await attempt(api, caller.tenant_id, "ada@example.com"))[0] == 401
        assert (await attempt(api, caller.tenant_id, "ada@example.com", PASSWORD))[0] == 201
    for _ in range(FREE_TRIES):
        await attempt(api, caller.tenant_id, "ada@example.com")
    locked = (await api.send(caller, "GET", path)).json()["locked_until"]
    assert dt.datetime.fromisoformat(locked) == api.now + dt.timedelta(minutes=1)
    operator = await api.operator()
    for setter, headers in ((caller, {}), (operator, {"prefill_tenant": caller.tenant_id})):
        for _ in range(FREE_TRIES):
            await attempt(api, caller.tenant_id, "ada@example.com")
        assert (await attempt(api, caller.tenant_id, "ada@example.com", PASSWORD))[0] == 429
        body = {"password": PASSWORD}
        done = await api.send(setter, "PUT", f"{path}/password", body, **headers)
        assert done.json()["locked_until"] is None
        assert (await attempt(api, caller.tenant_id, "ada@example.com", PASSWORD))[0] == 201


async def test_strangers_fill_slots_and_no_more(api, urls, monkeypatch):
    monkeypatch.setattr(sign_in, "SLOTS", 1)
    caller, _ = await member(api)
    for _ in range(FREE_TRIES):
        await attempt(api, caller.tenant_id, "ada@example.com")
    assert (await attempt(api, caller.tenant_id, "ada@example.com", PASSWORD))[0] == 429
    for number in range(FREE_TRIES):
        status, *_ = await attempt(api, caller.tenant_id, f"stranger{number}@example.com")
        assert status == 401  # none inherits the lock of who had the slot before
    connection = await asyncpg.connect(urls.admin)
    rows = await connection.fetch("SELECT * FROM sign_in_tries WHERE slot = 0")
    await connection.close()
    assert [row["failures"] for row in rows] == [1]
    assert "stranger" not in str(rows)
    assert (await attempt(api, caller.tenant_id, "ada@example.com", PASSWORD))[0] == 201
