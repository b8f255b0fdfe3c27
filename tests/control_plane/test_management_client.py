"""The SDK's management client against the real application: every noun, every verb."""

import datetime as dt

import httpx
import msgspec
import pytest
from control_api import FLEET_TOKEN
from management_world import Watched, World, patterns_of
from prefill_cloud.manage import (
    ANY_VERSION,
    NO_VERSION,
    AsyncManagementClient,
    KeyValues,
    LimitValues,
    OverrideValues,
    PreferenceValues,
    PriceValues,
    QuoteRequest,
    RouteRequest,
    errors,
    limits,
)
from prefill_cloud.manage.verbs import ListVerb, Noun, Verb
from prefill_control.access.scopes import Scope

PASSWORD = "correct horse battery"


@pytest.fixture
async def world(api):
    world = World(api, await api.operator())
    yield world
    await world.operator.close()


async def every(rows):
    return [row async for row in rows]


SCENARIOS = []


def reaches(*operations):
    """Which operations a scenario calls; a parametrised test plays it."""

    def made(scenario):
        SCENARIOS.append((scenario, operations))
        return scenario

    return made


@reaches("createTenant", "listTenants", "readTenant", "updateTenant")
async def an_account_is_made_and_renamed(world):
    nouns = world.operator.tenants
    made = await nouns.create("Before")
    renamed = await nouns.update(made.id, name="After", version=made.version)
    assert (await nouns.read(made.id)) == renamed
    assert renamed.version == made.version + 1
    with pytest.raises(errors.ChangedMeanwhileError):
        await nouns.update(made.id, name="Late", version=made.version)
    assert (await nouns.update(made.id, name="Anyway", version=ANY_VERSION)).name == "Anyway"
    assert made.id in {row.id for row in await every(nouns.list(state="active"))}


@reaches("suspendTenant", "resumeTenant", "closeTenant")
async def an_account_is_moved(world):
    nouns, made = world.operator.tenants, await world.operator.tenants.create("Mover")
    assert (await nouns.suspend(made.id, reason="late")).reason == "late"
    assert (await nouns.resume(made.id)).state == "active"
    closed = await nouns.close(made.id, reason="asked to")
    assert (closed.state, closed.closed_at) == ("closed", world.api.now)
    with pytest.raises(errors.StateConflictError) as refused:
        await nouns.resume(made.id)
    assert refused.value.code == "WRONG_STATE"


@reaches("createMember", "listMembers", "readMember", "updateMember", "setMemberPassword",
         "deleteMember", "createSession", "deleteSessions")  # fmt: skip
async def a_person_joins_signs_in_and_leaves(world):
    admin, tenant_id = await world.admin()
    made = await admin.members.create("ada@example.com", name="Ada", role="developer")
    assert not made.has_password
    assert (await admin.members.set_password(made.id, PASSWORD)).has_password
    async with world.client(None) as stranger:
        opened = await stranger.sessions.create(
            tenant_id=tenant_id, email="ada@example.com", password=PASSWORD
        )
        with pytest.raises(errors.NotAuthenticatedError):
            await stranger.members.read(made.id)
    async with world.client(opened.token.text) as ada:
        assert (await ada.members.read(made.id)).name == "Ada"
        await ada.sessions.delete_all()
        with pytest.raises(errors.NotAuthenticatedError):
            await ada.members.read(made.id)
    now = await admin.members.read(made.id)
    changed = await admin.members.update(made.id, name="Ada L", role="viewer", version=now.version)
    assert [row.id for row in await every(admin.members.list(role="viewer"))] == [changed.id]
    await admin.members.delete(made.id)
    with pytest.raises(errors.NotFoundError):
        await admin.members.delete(made.id)


@reaches("createKey", "listKeys", "readKey", "updateKey", "rotateKey", "revokeKey", "checkKey")
async def a_key_lives(world):
    admin, _ = await world.admin()
    until = world.api.now + dt.timedelta(days=1)
    values = KeyValues(name="build", scopes=["prefill"], addresses=["10.0.0.0/8"], expires_at=until)
    issued = await admin.keys.create(values)
    assert await admin.keys.read(issued.key.id) == issued.key
    wider = msgspec.structs.replace(values, addresses=[])
    await admin.keys.update(issued.key.id, wider, version=issued.key.version)
    found = await admin.keys.check(issued.secret.text, address="192.0.2.1")
    assert (found.status, found.key_id) == ("VALID", issued.key.id)
    successor = await admin.keys.rotate(issued.key.id, overlap_seconds=60)
    assert successor.secret != issued.secret
    revoked = await admin.keys.revoke(successor.key.id)
    assert revoked.state == "revoked"
    assert revoked.id in {row.id for row in await every(admin.keys.list(state="revoked"))}


@reaches("listLimits", "readLimits", "putLimits", "deleteLimits")
async def limits_are_set_and_lifted(world):
    _, tenant_id = await world.admin()
    account = world.operator.for_tenant(tenant_id)
    first = await account.limits.put(
        limits.TENANT, LimitValues(concurrency=3, day_tokens_hard=9), version=NO_VERSION
    )
    more = msgspec.structs.replace(first.values(), concurrency=4)
    await account.limits.put(limits.TENANT, more, version=first.version)
    assert (await account.limits.read()).concurrency == 4
    assert [row.day_tokens_hard for row in await every(account.limits.list())] == [9]
    await account.limits.delete(limits.TENANT)
    with pytest.raises(errors.NotFoundError):
        await account.limits.read(limits.TENANT)


@reaches("createDatacenter", "listDatacenters", "readDatacenter", "updateDatacenter",
         "cordonDatacenter", "uncordonDatacenter", "drainDatacenter",
         "undrainDatacenter")  # fmt: skip
async def a_datacenter_works_and_rests(world):
    nouns, made = world.operator.datacenters, await world.datacenter(accelerators={"h100": 8})
    states = [(await getattr(nouns, move)(made.name)).state
              for move in ("cordon", "uncordon", "drain", "undrain")]  # fmt: skip
    assert states == ["cordoned", "active", "draining", "active"]
    now = await nouns.read(made.name)
    farther = msgspec.structs.replace(now.values(), rtt_ms=80)
    assert (await nouns.update(made.name, farther, version=now.version)).rtt_ms == 80
    assert made.name in {row.name for row in await every(nouns.list(jurisdiction="EU"))}


@reaches("readDatacenterPreference", "putDatacenterPreference", "readResidency", "putResidency")
async def wishes_and_rules_are_kept(world):
    admin, tenant_id = await world.admin()
    made = await world.datacenter()
    before = await admin.preferences.read(tenant_id)
    assert before.version == NO_VERSION
    values = PreferenceValues(wishes=[made.name], max_price_micros=5)
    kept = await admin.preferences.put(tenant_id, values, version=before.version)
    assert (kept.values().wishes, kept.max_price_micros) == ([made.name], 5)
    with pytest.raises(errors.ChangedMeanwhileError):
        await admin.preferences.put(tenant_id, kept.values(), version=NO_VERSION)
    rule = await admin.residency.put(tenant_id, ["EU"], version=NO_VERSION)
    lifted = await admin.residency.put(tenant_id, [], version=rule.version)
    assert (await admin.residency.read(tenant_id)) == lifted


@reaches("createModel", "listModels", "readModel", "updateModel", "retireModel", "restoreModel",
         "createModelGrant", "listModelGrants", "deleteModelGrant")  # fmt: skip
async def a_model_is_served_to_whom_it_may(world):
    nouns, made = world.operator.models, await world.model(restricted=True)
    admin, tenant_id = await world.admin()
    with pytest.raises(errors.NotFoundError):
        await admin.models.read(made.name)
    grant = await world.operator.for_tenant(tenant_id).model_grants.create(made.name)
    assert (await admin.models.read(made.name)).fingerprint == "ab" * 32
    assert [row.id for row in await every(admin.model_grants.list())] == [grant.id]
    await world.operator.model_grants.delete(grant.id)
    longer = msgspec.structs.replace(made.values(), context_tokens=8192)
    await nouns.update(made.name, longer, version=made.version)
    assert (await nouns.retire(made.name)).state == "retired"
    assert made.name in {row.name for row in await every(nouns.list(state="retired"))}
    assert (await nouns.restore(made.name)).state == "active"


@reaches("createPrice", "listPrices", "createPriceOverride", "listPriceOverrides", "createQuote")
async def prices_are_set_and_asked(world):
    made, (admin, tenant_id) = await world.model(), await world.admin()
    await world.operator.prices.create(PriceValues(**world.rates(made)))
    asked = QuoteRequest(model=made.name, token_count=1000, cached_tokens=400)
    quote = await admin.quotes.create(asked)
    assert (quote.amount_micros, quote.bound_micros, quote.source) == (1400, 2000, "list")
    own = OverrideValues(**{**world.rates(made), "input_miss_micros": 1_000_000})
    account = world.operator.for_tenant(tenant_id)
    await account.price_overrides.create(own)
    assert (await admin.quotes.create(asked)).source == "override"
    listed = await every(admin.prices.list(model=made.name))
    assert [row.input_miss_micros for row in listed] == [2_000_000]
    assert len(await every(account.price_overrides.list(model=made.name))) == 1


@reaches("explainRoute")
async def a_route_is_explained(world):
    made, (admin, _) = await world.model(), await world.admin()
    place = await world.datacenter(models=[made.name])
    asked = RouteRequest(model=made.name, token_count=100_000, datacenters=[place.name])
    route = await admin.routes.explain(asked)
    assert route.datacenter == place.name
    assert route.steps[0].rule


@reaches("listUsage", "listReceipts", "listRequests", "readRequest")
async def usage_is_summed_and_told(world):
    caller = await world.api.caller(scopes=("usage:read", "account:read"))
    made = await deliver(world.api, caller)
    async with world.client(caller.secret) as client:
        (row,) = await every(
            client.usage.list(["model", "day"], since=world.api.now.replace(hour=0))
        )
        assert (row.group["model"], row.amount_micros) == ("kimi", 77)
        (receipt,) = await every(client.usage.receipts(model="kimi"))
        (record,) = await every(client.usage.requests())
        assert receipt.request_id == record.request_id == made.request_id
        assert (await client.usage.request(made.request_id)) == record
        assert await every(client.usage.requests(until=world.api.now.replace(year=2020))) == []


async def deliver(api, caller):
    """One receipt through the gateways' door."""
    from test_usage import line, receipt  # the one place that makes receipts

    made = receipt(api, caller)
    headers = {"prefill-fleet-token": FLEET_TOKEN.hex()}
    body = {"lines": [line(api, made)]}
    answer = await api.client.post("/internal/receipts", json=body, headers=headers)
    assert answer.json()["lines"][0]["fate"] == "accepted"
    return made


@reaches("listAuditRows")
async def every_change_left_a_row(world):
    admin, _ = await world.admin()
    issued = await admin.keys.create(KeyValues(name="seen", scopes=["prefill"]))
    (row,) = await every(admin.audit.list(subject_id=issued.key.id))
    assert (row.action, row.before) == ("keys.create", None)
    assert issued.secret.text not in repr(row)


@reaches("listFleet")
async def a_fleet_that_told_nothing_is_empty(world):
    assert await every(world.operator.fleet.list(role="worker")) == []
    admin, _ = await world.admin()
    with pytest.raises(errors.ManagementError) as refused:
        await every(admin.fleet.list())
    assert refused.value.code == "PERMISSION_DENIED"


def verbs_of(client):
    """Every verb of every noun, by operation."""
    kinds = [type(value) for value in vars(client).values() if isinstance(value, Noun)]
    members = [member for kind in kinds for member in vars(kind).values()]
    return {member.operation for member in members if isinstance(member, Verb | ListVerb)}


def operations_of(document):
    return {operation for _, _, operation in patterns_of(document)}


async def test_every_operation_of_the_api_has_a_verb_and_a_scenario(world):
    operations, verbs = operations_of(await world.document()), verbs_of(world.operator)
    assert operations - verbs == set()
    assert verbs - operations == set()
    assert verbs ^ {operation for _, named in SCENARIOS for operation in named} == set()


async def test_the_detectors_fire_for_an_operation_and_a_verb_too_many(world):
    document = await world.document()
    document["paths"]["/v1/new"] = {"post": {"operationId": "createNew"}, "summary": "words"}
    assert operations_of(document) - verbs_of(world.operator) == {"createNew"}
    del world.operator.audit
    assert operations_of(document) - verbs_of(world.operator) == {"createNew", "listAuditRows"}


@pytest.mark.parametrize(
    ("scenario", "operations"), SCENARIOS, ids=lambda v: getattr(v, "__name__", "")
)
async def test_every_verb_reaches_its_operation(world, scenario, operations):
    await scenario(world)
    assert set(operations) - await world.reached() == set()


async def test_a_refused_call_counts_as_not_reached(world):
    with pytest.raises(errors.NotFoundError):
        await world.operator.keys.revoke("key_nowhere")
    assert "revokeKey" not in await world.reached()


class Forgetful(httpx.AsyncBaseTransport):
    """The application does what it is asked, and the first answer to each verb is lost."""

    def __init__(self, inner):
        self._inner, self.lost = inner, set()

    async def handle_async_request(self, request):
        response = await self._inner.handle_async_request(request)
        if request.method in self.lost or request.method == "GET":
            return response
        self.lost.add(request.method)
        await response.aread()
        raise httpx.ReadError("the answer was lost")


async def test_what_was_done_before_its_answer_was_lost_is_done_once(world):
    caller = await world.api.caller(scopes=[s for s in Scope if s is not Scope.PLATFORM])
    network = Forgetful(Watched(world.api.app, world.seen))
    async with AsyncManagementClient(
        "http://127.0.0.1", caller.secret, transport=network
    ) as client:
        issued = await client.keys.create(KeyValues(name="once", scopes=["prefill"]))
        named = [key.id for key in await every(client.keys.list()) if key.name == "once"]
        assert named == [issued.key.id]
        assert (await client.keys.check(issued.secret.text)).status == "VALID"
        values = msgspec.structs.replace(issued.key.values(), name="twice")
        with pytest.raises(errors.ChangedMeanwhileError, match="an earlier try"):
            await client.keys.update(issued.key.id, values, version=issued.key.version)
        assert (await client.keys.read(issued.key.id)).version == issued.key.version + 1
        await client.limits.put(issued.key.id, LimitValues(concurrency=1), version=NO_VERSION)
        await client.limits.delete(issued.key.id)
        assert await every(client.limits.list()) == []
    assert network.lost == {"POST", "PUT", "DELETE"}


async def test_two_calls_with_one_key_are_one(world):
    admin, _ = await world.admin()
    values = KeyValues(name="same", scopes=["prefill"])
    first = await admin.keys.create(values, idempotency_key="mine")
    assert await admin.keys.create(values, idempotency_key="mine") == first
    other = msgspec.structs.replace(values, name="other")
    with pytest.raises(errors.StateConflictError) as refused:
        await admin.keys.create(other, idempotency_key="mine")
    assert refused.value.code == "IDEMPOTENCY_CONFLICT"


async def test_pages_join_without_a_gap(world):
    admin, _ = await world.admin()
    made = {(await admin.keys.create(KeyValues(name=f"k{n}", scopes=["prefill"]))).key.id
            for n in range(5)}  # fmt: skip
    first = await admin.keys.list().page(limit=2)
    second = await admin.keys.list().page(first.next_cursor, limit=200)
    assert len(first.items) == 2
    assert second.next_cursor == ""
    assert made <= {key.id for key in (*first.items, *second.items)}
    with pytest.raises(errors.InvalidInputError) as refused:
        await admin.keys.list().page("no cursor")
    assert refused.value.faults[0].field == "cursor"


async def test_a_stranger_and_another_account_learn_nothing(world):
    admin, _ = await world.admin()
    other, _ = await world.admin()
    issued = await admin.keys.create(KeyValues(name="mine", scopes=["prefill"]))
    told = []
    for key_id in (issued.key.id, "key_nowhere"):
        with pytest.raises(errors.NotFoundError) as refused:
            await other.keys.read(key_id)
        told.append((refused.value.code, refused.value.detail))
    assert told[0] == told[1]
    with pytest.raises(errors.ForbiddenError):
        await other.tenants.create("Not for me")
    with pytest.raises(errors.NotAuthenticatedError) as refused:
        await world.client("pck_nonsense").tenants.read("ten_a")
    assert refused.value.request_id.startswith("req_")
