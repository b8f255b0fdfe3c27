"""Places: the catalogue, wishes, the hard rule, and routes explained step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_control.datacenters.decision import Outcome, Question, Site, Wish, decide
from prefill_control.datacenters.wishes import narrowed

MODEL = {
    "name": "kimi",
    "fingerprint": "a" * 64,
    "tokenizer_fingerprint": "b" * 64,
    "numerics_profile": "fp32",
    "context_tokens": 65_536,
}
SITES = [
    Site(name=n, jurisdiction=j, state=s, models=("kimi",), rtt_ms=r, price_micros=100)
    for n, j, s, r in [
        ("ams", "EU", "active", 20), ("fra", "EU", "cordoned", 10), ("iad", "US", "active", 90),
    ]
]  # fmt: skip


def question(**changes):
    base = {"model": "kimi", "token_count": 60_000, "context_tokens": 65_536,
            "uncached_tokens": 50_000, "threshold_tokens": 1000}  # fmt: skip
    return Question(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "outcome", "datacenter", "rule"),
    [
        ({}, Outcome.CLOUD, "ams", "order"),
        ({"uncached_tokens": 1000}, Outcome.LOCAL, "", "threshold"),
        ({"wish": Wish(order=("iad",))}, Outcome.CLOUD, "iad", "order"),
        ({"wish": Wish(order=("fra",))}, Outcome.CLOUD, "ams", "order"),
        ({"wish": Wish(order=("fra",), fallback=False)}, Outcome.REFUSED, "", "wish"),
        ({"wish": Wish(deny=("ams",))}, Outcome.CLOUD, "iad", "order"),
        ({"wish": Wish(allow=("fra",))}, Outcome.REFUSED, "", "state"),
        ({"wish": Wish(max_price_micros=99)}, Outcome.REFUSED, "", "price"),
        ({"wish": Wish(max_added_latency_ms=15)}, Outcome.REFUSED, "", "latency"),
        ({"residency": ("US",)}, Outcome.CLOUD, "iad", "order"),
        ({"residency": ("EU",), "wish": Wish(order=("iad",))}, Outcome.CLOUD, "ams", "order"),
        ({"residency": ("CH",)}, Outcome.REFUSED, "", "residency"),
        ({"model": "other"}, Outcome.REFUSED, "", "model"),
        ({"token_count": 65_536}, Outcome.CLOUD, "ams", "order"),
        ({"token_count": 65_537}, Outcome.REFUSED, "", "context"),
    ],
)
def test_a_route_is_decided_rule_by_rule(changes, outcome, datacenter, rule):
    route = decide(question(**changes), SITES)
    assert (route.outcome, route.datacenter) == (outcome, datacenter)
    assert route.steps[-1].rule == rule
    assert route.reason


NAMES = st.lists(st.sampled_from(["ams", "fra", "iad"]), unique=True).map(tuple)


@given(NAMES, NAMES, NAMES, st.booleans(), st.lists(st.sampled_from(["EU", "US", "CH"])))
def test_no_wish_ever_leaves_the_residency(order, allow, deny, fallback, residency):
    wish = Wish(order=order, allow=allow, deny=deny, fallback=fallback)
    route = decide(question(wish=wish, residency=tuple(residency)), SITES)
    places = {site.name: site for site in SITES}
    if route.datacenter:
        assert not residency or places[route.datacenter].jurisdiction in residency
        assert route.datacenter not in deny
        assert not allow or route.datacenter in allow
    assert decide(question(wish=wish, residency=tuple(residency)), SITES[::-1]) == route


def test_a_request_narrows_the_accounts_rule_and_never_widens_it():
    assert narrowed(["EU", "US"], ["EU"]) == ("EU",)
    assert narrowed(["EU"], []) == ("EU",)
    assert narrowed([], ["US"]) == ("US",)
    assert narrowed(["EU"], ["US"]) == ("nowhere",)
    assert narrowed([], []) == ()


async def catalogue(api, operator, *places):
    await api.send(operator, "POST", "/v1/models", MODEL)
    for name, jurisdiction, rtt_ms in places:
        body = {
            "name": name,
            "jurisdiction": jurisdiction,
            "endpoint": f"{name}.example:443",
            "models": ["kimi"],
            "rtt_ms": rtt_ms,
        }
        await api.send(operator, "POST", "/v1/datacenters", body)


async def test_cordon_drain_and_back(api):
    operator, caller = await api.operator(), await api.caller()
    await catalogue(api, operator, ("ams", "EU", 20))
    path = "/v1/datacenters/ams"
    for verb, state in [
        ("cordon", "cordoned"), ("cordon", "cordoned"), ("uncordon", "active"),
        ("drain", "draining"), ("undrain", "active"),
    ]:  # fmt: skip
        done = await api.send(operator, "POST", f"{path}/{verb}")
        assert (done.status_code, done.json()["state"]) == (200, state)
    await api.send(operator, "POST", f"{path}/drain")
    assert (await api.send(operator, "POST", f"{path}/uncordon")).status_code == 409
    assert (await api.send(caller, "POST", f"{path}/undrain")).status_code == 403
    assert (await api.send(operator, "POST", f"{path}/undrain")).status_code == 200


async def test_a_route_is_explained_to_a_tenant_with_its_own_rules(api):
    operator = await api.operator()
    await catalogue(api, operator, ("ams", "EU", 20), ("iad", "US", 5))
    caller = await api.caller()
    ask = {"model": "kimi", "token_count": 9000}
    explain = "/v1/routes/explain"
    assert (await api.send(caller, "POST", explain, ask)).json()["datacenter"] == "iad"
    longer = (await api.send(caller, "POST", explain, {**ask, "token_count": 65_537})).json()
    assert "kimi takes 65536 tokens, not 65537" in longer["reason"]
    tenant = f"/v1/tenants/{caller.tenant_id}"
    ruled = await api.send(caller, "PUT", f"{tenant}/residency", {"jurisdictions": ["EU"]})
    assert ruled.status_code == 200
    assert (await api.send(caller, "POST", explain, ask)).json()["datacenter"] == "ams"
    wide = await api.send(caller, "POST", explain, {**ask, "residency": ["US"]})
    assert wide.json()["outcome"] == "refused"
    assert "residency" in wide.json()["reason"]
    wish = {"wishes": ["iad"], "fallback": False}
    assert (await api.send(caller, "PUT", f"{tenant}/datacenter-preference", wish)).json()["wishes"]
    refused = (await api.send(caller, "POST", explain, ask)).json()
    assert refused["outcome"] == "refused"
    assert refused["steps"][0]["rule"] == "residency"
    other = await api.caller()
    assert (await api.send(other, "POST", explain, ask)).json()["datacenter"] == "iad"


async def test_rules_name_what_exists_and_need_their_etag(api):
    operator, caller = await api.operator(), await api.caller()
    await catalogue(api, operator, ("ams", "EU", 20))
    path = f"/v1/tenants/{caller.tenant_id}/datacenter-preference"
    assert (await api.send(caller, "GET", path)).json()["version"] == 0
    assert (await api.send(caller, "PUT", path, {"wishes": ["atlantis"]})).status_code == 422
    first = await api.send(caller, "PUT", path, {"wishes": ["ams"]})
    assert first.headers["etag"] == '"1"'
    assert (await api.send(caller, "PUT", path, {"wishes": []})).status_code == 428
    stale = await api.send(caller, "PUT", path, {"wishes": []}, if_match='"7"')
    assert stale.status_code == 412
    done = await api.send(caller, "PUT", path, {"wishes": []}, if_match='"1"')
    assert done.headers["etag"] == '"2"'
    foreign = await api.caller()
    assert (await api.send(foreign, "GET", path)).status_code == 404
    assert (await api.send(foreign, "PUT", path, {})).status_code == 404
