"""A matrix over every operation of the document: who is let in, and nobody else."""

import datetime as dt
import re

import pytest
from prefill_control.access.scopes import ROLE_SCOPES, Role, Scope
from prefill_control.access.secrets import SESSION_PREFIX
from prefill_control.db import OfOneTenant
from prefill_control.members.models import Member, MemberSession
from prefill_control.web.boundary import NEEDS, PUBLIC
from prefill_control.web.documents import document_of, operations
from prefill_wire.ids import new_id

TENANT_SCOPES = [scope for scope in Scope if scope is not Scope.PLATFORM]
P, READ = Scope.PLATFORM, Scope.ACCOUNT_READ
ROWS = {
    "createTenant": P, "listTenants": READ, "readTenant": READ,
    "updateTenant": Scope.MANAGE_TENANT,
    "suspendTenant": P, "resumeTenant": P, "closeTenant": P,
    "listMembers": READ, "readMember": READ, "createMember": Scope.MANAGE_MEMBERS,
    "updateMember": Scope.MANAGE_MEMBERS, "deleteMember": Scope.MANAGE_MEMBERS,
    "setMemberPassword": Scope.MANAGE_MEMBERS,
    "createSession": PUBLIC, "deleteSessions": READ,
    "listKeys": READ, "readKey": READ, "createKey": Scope.MANAGE_KEYS,
    "updateKey": Scope.MANAGE_KEYS, "rotateKey": Scope.MANAGE_KEYS,
    "revokeKey": Scope.MANAGE_KEYS, "checkKey": Scope.MANAGE_KEYS,
    "listAuditRows": Scope.AUDIT_READ,
    "listLimits": READ, "readLimits": READ, "putLimits": Scope.MANAGE_LIMITS,
    "deleteLimits": Scope.MANAGE_LIMITS,
    "listDatacenters": READ, "readDatacenter": READ, "createDatacenter": P,
    "updateDatacenter": P, "cordonDatacenter": P, "uncordonDatacenter": P,
    "drainDatacenter": P, "undrainDatacenter": P,
    "readDatacenterPreference": READ, "putDatacenterPreference": Scope.MANAGE_DATACENTERS,
    "readResidency": READ, "putResidency": Scope.MANAGE_DATACENTERS, "explainRoute": READ,
    "listModels": READ, "readModel": READ, "createModel": P, "updateModel": P,
    "retireModel": P, "restoreModel": P,
    "listModelGrants": READ, "createModelGrant": P, "deleteModelGrant": P,
    "listPrices": READ, "createPrice": P, "listPriceOverrides": READ, "createPriceOverride": P,
    "createQuote": READ, "listFleet": P,
    "listUsage": Scope.USAGE_READ, "listReceipts": Scope.USAGE_READ,
    "listRequests": Scope.USAGE_READ, "readRequest": Scope.USAGE_READ,
}  # fmt: skip
CATALOGUES = ("/v1/datacenters", "/v1/models")


class Operation:
    """One operation of the document, ready to be called."""

    def __init__(self, verb, path, described):
        self.verb, self.path = verb.upper(), path
        self.name = described["operationId"]
        media = described.get("requestBody", {}).get("content", {}).get("application/json")
        self.body = None if media is None else media["example"]

    @property
    def names_an_object(self):
        return "{" in self.path and not self.path.startswith(CATALOGUES)

    def filled(self, ids):
        return re.sub(r"\{(\w+)\}", lambda m: ids.get(m.group(1), "absent"), self.path)

    async def call(self, api, headers, *, ids=(), more=None):
        body = self.body if more is None else {**(self.body or {}), **more}
        shown = {"If-Match": "*", **headers}
        return await api.client.request(self.verb, self.filled(dict(ids)), json=body, headers=shown)


@pytest.fixture
def described(api):
    found = [
        Operation(verb, path, operation)
        for path, item in document_of(api.app)["paths"].items()
        for verb, operation in item.items()
    ]
    return sorted(found, key=lambda operation: operation.name)


def unexpected(results, wanted):
    return {name: code for name, code in results.items() if code not in wanted}


async def session_of(api, tenant_id, role):
    """The headers of a signed-in member of this role."""
    work_random, now = api.parts.random, api.now
    secret = api.parts.pepper.new_secret(SESSION_PREFIX, work_random)
    member = Member(id=new_id("mem", work_random), tenant_id=tenant_id, role=role,
                    email=f"{role}@example.com")  # fmt: skip
    session = MemberSession(
        id=new_id("ses", work_random), tenant_id=tenant_id, member_id=member.id,
        proof=secret.proof, expires_at=now + dt.timedelta(hours=1),
    )  # fmt: skip
    async with api.parts.database.transaction(OfOneTenant(tenant_id)) as transaction:
        transaction.add(member)
        await transaction.flush()
        transaction.add(session)
    return {"Authorization": f"Bearer {secret.text}"}


def test_every_operation_has_a_row_and_every_handler_says_what_it_needs(api, described):
    assert {operation.name for operation in described} == set(ROWS)
    handlers = {h.operation_id: h.opt[NEEDS] for h in operations(api.app)}
    assert {name: handlers[name] for name in ROWS} == ROWS
    unguarded = [
        str(handler) for route in api.app.routes for handler in route.route_handlers
        if route.path.startswith(("/v1", "/internal")) and NEEDS not in handler.opt
        and handler.http_methods != {"OPTIONS"}
    ]  # fmt: skip
    assert not unguarded


def test_a_row_that_is_missing_or_wrong_is_seen(described):
    rows = dict(ROWS)
    del rows["createKey"]
    assert {operation.name for operation in described} != set(rows)


async def test_nobody_gets_in_without_a_key_that_holds(api, described):
    tenant = await api.tenant()
    revoked = await api.caller(tenant, TENANT_SCOPES)
    expired = await api.caller(tenant, TENANT_SCOPES, expires_at=api.now + dt.timedelta(seconds=1))
    keeper = await api.caller(tenant, TENANT_SCOPES)
    await api.send(keeper, "POST", f"/v1/keys/{revoked.key_id}/revoke")
    api.now += dt.timedelta(seconds=1)
    shown = {
        "no key": {},
        "another scheme": {"Authorization": f"Basic {keeper.secret}"},
        "nonsense": {"Authorization": "Bearer pck_nonsense"},
        "unknown": {"Authorization": f"Bearer {_unknown(api)}"},
        "revoked": revoked.headers,
        "expired": expired.headers,
    }
    for kind, headers in shown.items():
        results = {
            operation.name: (await operation.call(api, headers)).status_code
            for operation in described
            if ROWS[operation.name] != PUBLIC
        }
        assert not unexpected(results, {401}), kind


def _unknown(api):
    return api.parts.pepper.new_secret("pck", api.parts.random).text


async def test_a_key_without_the_scope_is_refused_and_with_it_is_not(api, described):
    tenant = await api.tenant()
    refused, let_in = {}, {}
    callers = {}
    for operation in described:
        needed = ROWS[operation.name]
        if needed == PUBLIC:
            continue
        if needed not in callers:
            others = [scope for scope in TENANT_SCOPES if scope is not needed]
            without = await api.caller(tenant, others)
            with_ = (
                await api.caller("ten_platform", list(Scope))
                if needed is P
                else await api.caller(tenant, TENANT_SCOPES)
            )
            callers[needed] = without, with_
        without, with_ = callers[needed]
        refused[operation.name] = (await operation.call(api, without.headers)).status_code
        answer = await operation.call(api, with_.headers)
        let_in[operation.name] = (
            answer.status_code,
            answer.json().get("detail") if answer.content else "",
        )
    assert not unexpected(refused, {403})
    assert not {
        n: c for n, c in let_in.items() if c[0] in (401, 500) or "lacks the scope" in (c[1] or "")
    }


@pytest.mark.parametrize("role", [r for r in Role if r is not Role.OPERATOR])
async def test_a_role_reaches_what_its_scopes_say_and_no_more(api, described, role):
    tenant = await api.tenant()
    headers = await session_of(api, tenant, role)
    refused = {}
    for operation in described:
        needed = ROWS[operation.name]
        if needed == PUBLIC or operation.name == "deleteSessions":
            continue
        answer = await operation.call(api, headers)
        allowed = needed in ROLE_SCOPES[role]
        if allowed is (answer.status_code == 403 and "lacks the scope" in answer.text):
            refused[operation.name] = answer.status_code
    assert not refused


async def test_another_tenants_object_is_an_absent_one(api, described):
    """Same status, same body: nothing tells the two apart."""
    ours = await api.caller(scopes=TENANT_SCOPES)
    theirs = await api.caller(scopes=TENANT_SCOPES)
    body = {"email": "eve@example.com", "name": "Eve", "role": "viewer"}
    member = (await api.send(theirs, "POST", "/v1/members", body)).json()["id"]
    await api.send(theirs, "PUT", f"/v1/limits/{theirs.key_id}", {"concurrency": 1})
    foreign = {
        "tenant_id": theirs.tenant_id, "member_id": member, "key_id": theirs.key_id,
        "subject": theirs.key_id, "request_id": "req_theirs", "grant_id": "grt_theirs",
    }  # fmt: skip
    wrong = {}
    for operation in described:
        if not operation.names_an_object:
            continue
        found = await operation.call(api, ours.headers, ids=foreign)
        absent = await operation.call(api, ours.headers, ids={"subject": "key_absent"})
        bodies = [{k: v for k, v in a.json().items() if k != "request_id"} for a in (found, absent)]
        wanted = 403 if ROWS[operation.name] is P else 404
        if found.status_code != wanted or bodies[0] != bodies[1]:
            wrong[operation.name] = found.status_code, bodies
    assert not wrong
    own = await api.send(theirs, "GET", f"/v1/members/{member}")
    assert own.status_code == 200  # the twin: it is there, for whom it belongs to


async def test_a_field_that_nobody_asked_for_is_refused(api, described):
    operator = await api.operator()
    fields = ({"tenant_id": "ten_other"}, {"id": "x"}, {"version": 7}, {"role_": "owner"})
    for more in fields:
        results = {
            operation.name: (await operation.call(api, operator.headers, more=more)).status_code
            for operation in described
            if operation.body is not None and not set(more) & set(operation.body)
        }
        assert not unexpected(results, {422}), more


async def test_only_operators_name_a_tenant(api):
    ours, theirs, operator = await api.caller(), await api.caller(), await api.operator()
    refused = await api.send(ours, "GET", "/v1/keys", prefill_tenant=theirs.tenant_id)
    assert refused.status_code == 403
    own = await api.send(ours, "GET", "/v1/keys", prefill_tenant=ours.tenant_id)
    assert own.status_code == 200
    listed = await api.send(operator, "GET", "/v1/keys", prefill_tenant=theirs.tenant_id)
    assert [key["id"] for key in listed.json()["items"]] == [theirs.key_id]
