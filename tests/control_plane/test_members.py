"""People: roles bound who may do what to whom; passwords lock; the last owner stays."""

import datetime as dt

import pytest
from argon2 import PasswordHasher, extract_parameters
from prefill_control.access.scopes import ROLE_SCOPES, Role, Scope
from prefill_control.members.sign_in import FREE_TRIES, LONGEST_LOCK, lock_after

PASSWORD = "correct horse battery"
ADMIN = [s for s in Scope if s is not Scope.PLATFORM]


def person(email="ada@example.com", role="admin", **more):
    return {"email": email, "name": "Ada", "role": role, **more}


async def signed_in(api, tenant_id, email="ada@example.com", password=PASSWORD):
    body = {"tenant_id": tenant_id, "email": email, "password": password}
    return await api.send(None, "POST", "/v1/sessions", body)


async def test_a_member_signs_in_acts_and_signs_out(api):
    caller = await api.caller(scopes=ADMIN)
    made = await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    assert made.status_code == 201
    assert "password" not in made.text.replace("has_password", "")
    session = await signed_in(api, caller.tenant_id, "ADA@example.com")
    assert session.status_code == 201
    headers = {"Authorization": f"Bearer {session.json()['token']}"}
    listed = await api.client.get("/v1/members", headers=headers)
    assert [m["email"] for m in listed.json()["items"]] == ["ada@example.com"]
    assert (await api.client.delete("/v1/sessions", headers=headers)).status_code == 204
    assert (await api.client.get("/v1/members", headers=headers)).status_code == 401


async def test_a_session_ends_by_itself(api):
    caller = await api.caller(scopes=ADMIN)
    await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    token = (await signed_in(api, caller.tenant_id)).json()["token"]
    api.now += dt.timedelta(hours=api.settings.session_hours)
    refused = await api.client.get("/v1/members", headers={"Authorization": f"Bearer {token}"})
    assert refused.json()["code"] == "KEY_EXPIRED"


async def test_wrong_passwords_lock_and_the_count_survives_the_refusal(api):
    caller = await api.caller(scopes=ADMIN)
    await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    for _ in range(FREE_TRIES):
        refused = await signed_in(api, caller.tenant_id, password="wrong")
        assert refused.status_code == 401
    locked = await signed_in(api, caller.tenant_id)
    assert locked.status_code == 429
    assert 0 < int(locked.headers["retry-after"]) <= 61
    api.now += dt.timedelta(minutes=1, seconds=1)
    assert (await signed_in(api, caller.tenant_id)).status_code == 201


async def test_the_refusal_does_not_tell_what_was_wrong(api):
    caller = await api.caller(scopes=ADMIN)
    await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    await api.send(caller, "POST", "/v1/members", person("bob@example.com"))
    tries = [
        await signed_in(api, caller.tenant_id, password="wrong"),
        await signed_in(api, caller.tenant_id, "nobody@example.com"),
        await signed_in(api, "ten_nowhere"),
        await signed_in(api, caller.tenant_id, "bob@example.com"),  # has no password
    ]
    bodies = [{k: v for k, v in t.json().items() if k != "request_id"} for t in tries]
    assert {t.status_code for t in tries} == {401}
    assert all(body == bodies[0] for body in bodies)


@pytest.fixture
def hashed(monkeypatch):
    """The cost of every argon2 hash that a sign-in computed: what a watch could measure."""
    found, verify = [], PasswordHasher.verify

    def counted(hasher, stored, password):
        found.append(repr(extract_parameters(stored)))
        return verify(hasher, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    return found


async def test_a_stranger_costs_the_same_hash_as_a_member(api, hashed):
    caller = await api.caller(scopes=ADMIN)
    await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    await api.send(caller, "POST", "/v1/members", person("eve@example.com"))  # has no password
    bodies = set()
    for tenant_id, email in (
        (caller.tenant_id, "ada@example.com"),
        (caller.tenant_id, "eve@example.com"),
        (caller.tenant_id, "nobody@example.com"),
        ("ten_absent", "ada@example.com"),
    ):
        refused = await signed_in(api, tenant_id, email, "a wrong password")
        bodies.add((refused.status_code, refused.json()["code"], refused.json()["detail"]))
    assert len(hashed) == 4
    assert len(set(hashed)) == 1  # memory, passes, lanes and lengths
    assert len(bodies) == 1


async def test_the_counter_tells_a_sign_in_that_computes_nothing(api, hashed):
    caller = await api.caller(scopes=ADMIN)
    await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    for _ in range(FREE_TRIES):
        await signed_in(api, caller.tenant_id, password="a wrong password")
    hashed.clear()
    assert (await signed_in(api, caller.tenant_id)).status_code == 429  # locked: not even tried
    assert hashed == []


async def test_the_last_owner_stays(api):
    caller = await api.caller(scopes=ADMIN)
    first = await api.send(caller, "POST", "/v1/members", person(role="owner"))
    path, etag = first.headers["location"], first.headers["etag"]
    change = {"name": "Ada", "role": "viewer"}
    assert (await api.send(caller, "PUT", path, change, if_match=etag)).status_code == 409
    assert (await api.send(caller, "DELETE", path)).status_code == 409
    await api.send(caller, "POST", "/v1/members", person("eve@example.com", "owner"))
    assert (await api.send(caller, "PUT", path, change, if_match=etag)).status_code == 200


async def test_nobody_gives_or_takes_more_rights_than_their_own(api):
    owner = await api.caller(scopes=ADMIN)
    boss = await api.send(owner, "POST", "/v1/members", person(role="owner"))
    clerk = await api.caller(owner.tenant_id, ("manage:members", "account:read", "usage:read"))
    for role in ("owner", "admin", "developer", "operator"):
        refused = await api.send(clerk, "POST", "/v1/members", person("x@example.com", role))
        assert refused.status_code == 403, role
    path = boss.headers["location"]
    password = {"password": PASSWORD}
    assert (await api.send(clerk, "PUT", f"{path}/password", password)).status_code == 403
    assert (await api.send(clerk, "DELETE", path)).status_code == 403
    allowed = await api.send(clerk, "POST", "/v1/members", person("x@example.com", "viewer"))
    assert allowed.status_code == 201


async def test_an_operator_is_never_a_customers_member(api):
    operator = await api.operator()
    tenant = await api.tenant()
    refused = await api.send(
        operator, "POST", "/v1/members", person(role="operator"), prefill_tenant=tenant
    )
    assert refused.status_code == 403
    allowed = await api.send(operator, "POST", "/v1/members", person(role="operator"))
    assert allowed.status_code == 201


async def test_one_address_is_one_member_of_a_tenant(api):
    one, other = await api.caller(scopes=ADMIN), await api.caller(scopes=ADMIN)
    assert (await api.send(one, "POST", "/v1/members", person())).status_code == 201
    again = await api.send(one, "POST", "/v1/members", person("Ada@Example.com"))
    assert (again.status_code, again.json()["code"]) == (409, "NAME_TAKEN")
    assert (await api.send(other, "POST", "/v1/members", person())).status_code == 201


async def test_a_new_password_ends_sessions(api):
    caller = await api.caller(scopes=ADMIN)
    made = await api.send(caller, "POST", "/v1/members", person(password=PASSWORD))
    token = (await signed_in(api, caller.tenant_id)).json()["token"]
    path = f"{made.headers['location']}/password"
    await api.send(caller, "PUT", path, {"password": "another long password"})
    refused = await api.client.get("/v1/members", headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 401


def test_locks_double_to_an_hour():
    locks = [lock_after(n) for n in range(FREE_TRIES - 1, FREE_TRIES + 12)]
    assert locks[0] == dt.timedelta(0)
    assert locks[1:4] == [dt.timedelta(minutes=m) for m in (1, 2, 4)]
    assert locks[-1] == LONGEST_LOCK


@pytest.mark.parametrize("role", Role)
def test_only_operators_reach_the_platform(role):
    assert (Scope.PLATFORM in ROLE_SCOPES[role]) is (role is Role.OPERATOR)
    manages = {s for s in ROLE_SCOPES[role] if s.startswith("manage:")}
    assert not manages or role in (Role.DEVELOPER, Role.ADMIN, Role.OWNER, Role.OPERATOR)
