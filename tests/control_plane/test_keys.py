"""Keys over REST: shown once, kept as a proof, refused by status."""

import datetime as dt

import asyncpg
import pytest
from control_api import ControlApi
from prefill_control.access.secrets import KEY_PREFIX, SECRET_BYTES, Pepper, well_formed
from prefill_control.keys.status import KeyStatus, KnownKey, key_status

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
GOOD = KnownKey(revoked=False, expires_at=None, addresses=(), tenant_state="active")
KEY = {"name": "ci", "scopes": ["prefill", "usage:read"]}
MAKER = ("manage:*", "account:read", "prefill", "usage:read")


async def test_a_secret_is_shown_once_and_kept_nowhere(api, urls):
    caller = await api.caller(scopes=MAKER)
    made = await api.send(caller, "POST", "/v1/keys", KEY)
    assert made.status_code == 201
    secret, key = made.json()["secret"], made.json()["key"]
    assert well_formed(secret, KEY_PREFIX)
    assert SECRET_BYTES * 8 >= 192
    assert key["last4"] == secret[-4:]
    read = await api.send(caller, "GET", made.headers["location"])
    assert read.json() == key
    connection = await asyncpg.connect(urls.admin)
    for table in ("api_keys", "audit_rows", "remembered_answers"):
        dump = await connection.fetchval(f"SELECT string_agg({table}::text, '') FROM {table}")
        assert secret not in (dump or "")
        assert secret[4:20] not in (dump or "")
    await connection.close()


async def test_the_new_key_works_with_its_scopes_alone(api):
    caller = await api.caller(scopes=MAKER)
    made = (await api.send(caller, "POST", "/v1/keys", KEY)).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    refused = await api.client.get("/v1/keys", headers=headers)
    assert refused.status_code == 403
    assert "account:read" in refused.json()["detail"]


async def test_nobody_makes_a_key_with_more_rights_than_their_own(api):
    caller = await api.caller(scopes=("manage:keys", "account:read"))
    for scopes in (["manage:*"], ["prefill"], ["platform"]):
        refused = await api.send(caller, "POST", "/v1/keys", {**KEY, "scopes": scopes})
        assert refused.status_code == 403, scopes
    allowed = await api.send(caller, "POST", "/v1/keys", {**KEY, "scopes": ["account:read"]})
    assert allowed.status_code == 201


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"scopes": []}, "VALIDATION_FAILED"),
        ({"scopes": ["everything"]}, "VALIDATION_FAILED"),
        ({"addresses": ["10.0.0.0/99"]}, "INVALID_VALUE"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "INVALID_VALUE"),
        ({"expires_at": "2030-01-01T00:00:00"}, "VALIDATION_FAILED"),
        ({"name": ""}, "VALIDATION_FAILED"),
        ({"name": "a\u0000b"}, "VALIDATION_FAILED"),
        ({"tenant_id": "ten_other"}, "VALIDATION_FAILED"),
        ({"key_hash": "0" * 64}, "VALIDATION_FAILED"),
        ({"state": "revoked"}, "VALIDATION_FAILED"),
    ],
)
async def test_bad_and_foreign_fields_are_refused(api, change, code):
    caller = await api.caller(scopes=MAKER)
    refused = await api.send(caller, "POST", "/v1/keys", {**KEY, **change})
    assert refused.status_code == 422
    assert refused.json()["code"] == code
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_revoked_key_is_refused_and_revoking_again_changes_nothing(api):
    caller = await api.caller()
    other = await api.caller(caller.tenant_id)
    assert (await api.send(other, "GET", "/v1/keys")).status_code == 200
    for _ in range(2):
        done = await api.send(caller, "POST", f"/v1/keys/{other.key_id}/revoke")
        assert done.json()["state"] == "revoked"
        assert done.json()["version"] == 2
    refused = await api.send(other, "GET", "/v1/keys")
    assert refused.status_code == 401
    assert refused.json()["code"] == "KEY_REVOKED"


async def test_rotation_overlaps(api):
    caller = await api.caller()
    old = await api.caller(caller.tenant_id)
    made = await api.send(caller, "POST", f"/v1/keys/{old.key_id}/rotate", {"overlap_seconds": 600})
    new = {"Authorization": f"Bearer {made.json()['secret']}"}
    assert (await api.client.get("/v1/keys", headers=new)).status_code == 200
    assert (await api.send(old, "GET", "/v1/keys")).status_code == 200
    again = await api.send(caller, "POST", f"/v1/keys/{old.key_id}/rotate", {})
    assert again.status_code == 409
    api.now += dt.timedelta(seconds=600)
    refused = await api.send(old, "GET", "/v1/keys")
    assert refused.json()["code"] == "KEY_EXPIRED"
    assert (await api.client.get("/v1/keys", headers=new)).status_code == 200


async def test_an_address_outside_the_list_is_refused(api):
    caller = await api.caller(addresses=["127.0.0.0/8", "2001:db8::/32"])
    assert (await api.send(caller, "GET", "/v1/keys")).status_code == 200
    async with api.client_from("192.0.2.1") as client:
        refused = await client.get("/v1/keys", headers=caller.headers)
    assert refused.json()["code"] == "ADDRESS_NOT_ALLOWED"
    async with api.client_from("2001:db8::7") as client:
        assert (await client.get("/v1/keys", headers=caller.headers)).status_code == 200


async def test_a_suspended_tenants_keys_wait_and_a_closed_ones_are_gone(api):
    operator, caller = await api.operator(), await api.caller()
    path = f"/v1/tenants/{caller.tenant_id}"
    await api.send(operator, "POST", f"{path}/suspend", {"reason": "unpaid"})
    assert (await api.send(caller, "GET", "/v1/keys")).json()["code"] == "TENANT_SUSPENDED"
    await api.send(operator, "POST", f"{path}/resume", {})
    assert (await api.send(caller, "GET", "/v1/keys")).status_code == 200
    await api.send(operator, "POST", f"{path}/close", {})
    assert (await api.send(caller, "GET", "/v1/keys")).json()["code"] == "KEY_REVOKED"
    assert (await api.send(operator, "POST", f"{path}/resume", {})).status_code == 409


async def test_a_check_tells_the_status_and_nothing_of_foreign_keys(api):
    caller, foreign = await api.caller(), await api.caller()
    own = await api.send(caller, "POST", "/v1/key-checks", {"secret": caller.secret})
    assert own.json()["status"] == "VALID"
    assert own.json()["key_id"] == caller.key_id
    theirs = await api.send(caller, "POST", "/v1/key-checks", {"secret": foreign.secret})
    absent = await api.send(caller, "POST", "/v1/key-checks", {"secret": "pck_nothing"})
    assert theirs.json() == absent.json() == {
        "status": "NOT_FOUND", "key_id": "", "tenant_id": "", "scopes": [],
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["truncate", "swap", "case", "prefix"])
def test_a_damaged_secret_is_seen_without_a_table(damage):
    secret = Pepper(bytes(32)).new_secret(KEY_PREFIX, lambda n: bytes(range(n))).text
    broken = {
        "truncate": secret[:-1],
        "swap": secret[:10] + secret[11] + secret[10] + secret[12:],
        "case": secret[:-1] + secret[-1].swapcase(),
        "prefix": "pcs" + secret[3:],
    }[damage]
    assert well_formed(secret, KEY_PREFIX)
    assert broken == secret or not well_formed(broken, KEY_PREFIX)


@pytest.mark.parametrize(
    ("key", "address", "status"),
    [
        (None, "", KeyStatus.NOT_FOUND),
        (GOOD, "", KeyStatus.VALID),
        (KnownKey(True, None, (), "active"), "", KeyStatus.REVOKED),
        (KnownKey(False, NOW, (), "active"), "", KeyStatus.EXPIRED),
        (KnownKey(False, NOW + dt.timedelta(seconds=1), (), "active"), "", KeyStatus.VALID),
        (KnownKey(False, None, ("10.0.0.0/8",), "active"), "10.1.1.1", KeyStatus.VALID),
        (KnownKey(False, None, ("10.0.0.0/8",), "active"), "::ffff:10.1.1.1", KeyStatus.VALID),
        (KnownKey(False, None, ("10.0.0.0/8",), "active"), "11.1.1.1",
         KeyStatus.ADDRESS_NOT_ALLOWED),
        (KnownKey(False, None, ("10.0.0.0/8",), "active"), "unknown",
         KeyStatus.ADDRESS_NOT_ALLOWED),
        (KnownKey(False, None, (), "suspended"), "", KeyStatus.TENANT_SUSPENDED),
        (KnownKey(False, None, (), "closed"), "", KeyStatus.REVOKED),
    ],
)  # fmt: skip
def test_the_status_is_a_pure_decision(key, address, status):
    assert key_status(key, NOW, address) is status


async def test_what_is_remembered_of_a_key_is_forgotten_by_a_change_and_by_time(urls):
    api = ControlApi(urls.app, key_cache_seconds=3600.0)
    try:
        keeper = await api.caller()
        caller = await api.caller(keeper.tenant_id)
        assert (await api.send(caller, "GET", "/v1/keys")).status_code == 200
        await api.send(keeper, "POST", f"/v1/keys/{caller.key_id}/revoke")
        assert (await api.send(caller, "GET", "/v1/keys")).json()["code"] == "KEY_REVOKED"
        other = ControlApi(urls.app, key_cache_seconds=0.0)  # another process makes the change
        assert (await api.send(keeper, "GET", "/v1/keys")).status_code == 200
        await other.send(keeper, "POST", f"/v1/keys/{keeper.key_id}/revoke")
        assert (
            await api.send(keeper, "GET", "/v1/keys")
        ).status_code == 200  # the twin: remembered
        assert (await other.send(keeper, "GET", "/v1/keys")).status_code == 401
        await other.close()
    finally:
        await api.close()
