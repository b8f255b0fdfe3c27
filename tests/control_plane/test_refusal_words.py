"""What was wrong with a value is told in words, with its whole range: no regex, no Python type."""

import datetime as dt
from typing import Annotated

import api_checks
import msgspec
import pytest
from prefill_control.web.documents import document_of
from prefill_control.web.expectations import UNKNOWN, fault_of, wanted_at

PLACE = {"name": "fra", "jurisdiction": "EU", "endpoint": "fra.eu:443"}
KEY = {"name": "ci", "scopes": ["prefill"]}
MEMBER = {"email": "ada@example.com", "name": "Ada", "role": "viewer"}
A_HOST = "expected a host, a colon and a port, such as gw.eu:443 or [::1]:443"
A_SLUG = (
    "expected a name of 1 to 63 of a-z, 0-9, dot, underscore and hyphen that begins with a letter "
    "or digit, such as a-name"
)
A_ROLE = "expected one of owner, admin, billing, developer, viewer, operator"
NULL_OR_TIME = "expected null or a time with its zone, such as 2030-01-31T00:00:00Z"


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        ("datacenters", {**PLACE, "endpoint": "fra"}, "endpoint", A_HOST),
        ("datacenters", {**PLACE, "jurisdiction": "europe"}, "jurisdiction",
         "expected two or three capital letters, such as EU"),
        ("datacenters", {**PLACE, "models": ["a", "A B"]}, "models[1]", A_SLUG),
        ("datacenters", {**PLACE, "accelerators": {"A B": 1}}, "accelerators",
         f"a name in it: {A_SLUG}"),
        ("datacenters", {**PLACE, "accelerators": {"a": -1}}, "accelerators[...]",
         "expected a whole number from 0 to 1,000,000"),
        ("datacenters", {**PLACE, "rtt_ms": "7"}, "rtt_ms",
         "expected a whole number from 0 to 60,000"),
        ("datacenters", {**PLACE, "place": "x" * 501}, "place",
         "expected a text of 500 characters at most, none of them NUL"),
        ("datacenters", {"name": "fra"}, "jurisdiction", "missing"),
        ("datacenters", {**PLACE, "rank": 1}, "rank", "there is no such field"),
        ("datacenters", [], "body", "expected an object"),
        ("keys", {**KEY, "expires_at": "soon"}, "expires_at", NULL_OR_TIME),
        ("keys", {**KEY, "expires_at": "2030-01-31T00:00:00"}, "expires_at", NULL_OR_TIME),
        ("members", {**MEMBER, "role": "king"}, "role", A_ROLE),
        ("members", {**MEMBER, "email": "ada"}, "email",
         "expected an e-mail address of 254 characters at most, such as ada@example.com"),
        ("members", {**MEMBER, "password": "short"}, "password",
         "expected null or a text of 12 to 200 characters"),
    ],
)  # fmt: skip
async def test_a_field_of_a_body_is_told_in_words(api, path, body, field, reason):
    refused = await api.send(await api.operator(), "POST", f"/v1/{path}", body)
    told = refused.json()
    assert (refused.status_code, told["code"]) == (422, "VALIDATION_FAILED")
    assert told["faults"] == [{"field": field, "reason": reason}]
    assert told["detail"] == f"{field}: {reason}"


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("keys?limit=0", "limit", "expected a whole number from 1 to 200"),
        ("keys?limit=many", "limit", "expected a whole number from 1 to 200"),
        ("keys?state=odd", "state", "expected one of active, revoked"),
        ("tenants?state=odd", "state", "expected one of active, suspended, closed"),
        ("members?role=king", "role", A_ROLE),
        ("usage?since=soon", "since",
         "expected a time with its zone, such as 2030-01-31T00:00:00Z"),
        ("usage?since=2020-01-01T00:00:00", "since",
         "expected a time with its zone, such as 2030-01-31T00:00:00Z"),
        ("audit-rows?until=2020-01-01T00:00:00", "until",
         "expected a time with its zone, such as 2030-01-31T00:00:00Z"),
        ("usage?group_by=week", "group_by", "expected a list of at most 7 entries, each one of "
         "tenant, key, model, datacenter, hour, day, month"),
    ],
)  # fmt: skip
async def test_a_parameter_is_told_by_its_own_name(api, query, field, reason):
    refused = await api.send(await api.operator(), "GET", f"/v1/{query}")
    assert refused.status_code == 422
    assert refused.json()["faults"] == [{"field": field, "reason": reason}]


async def test_no_body_at_all_is_told(api):
    headers = {**(await api.operator()).headers, "content-type": "application/json"}
    refused = await api.client.post("/v1/keys", content=b"", headers=headers)
    assert refused.json()["detail"] == "the body is empty"


def patterned(schema, path=""):
    """(where, whether it is described) of every text with a pattern in a document."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield path, bool(schema.get("description"))
        for name, inner in schema.items():
            yield from patterned(inner, f"{path}/{name}")
    if isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from patterned(inner, f"{path}/{number}")


def test_every_text_of_a_body_that_has_a_pattern_is_described(api):
    found = dict(patterned(document_of(api.app)["components"]))
    assert len(found) > 10
    assert [path for path, described in found.items() if not described] == []
    assert list(patterned({"a": [{"pattern": "^x$"}]})) == [("/a/0", False)]  # the twin


class Inner(msgspec.Struct):
    at: dt.datetime
    weights: dict[str, float]


class Odd(msgspec.Struct, forbid_unknown_fields=True):
    inner: list[Inner] | None
    code: Annotated[str, msgspec.Meta(pattern="^x$")] = "x"


def fault(value):
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(value, Odd)
    found = fault_of(refused.value, Odd)
    return found.field, found.reason


def test_places_within_places_and_types_that_have_no_words():
    good = {"at": "2030-01-31T00:00:00Z", "weights": {}}
    assert fault({"inner": [good, {"at": 1, "weights": {}}]})[0] == "inner[1].at"
    assert fault({"inner": [{**good, "weights": {"a": "b"}}]}) == (
        "inner[0].weights[...]", f"expected {UNKNOWN}",
    )  # fmt: skip
    assert fault({"inner": [{"weights": {}}]}) == ("inner[0].at", "missing")
    assert fault({"inner": None, "code": "y"}) == ("code", "expected a text")  # no regex
    assert wanted_at(Odd, ".nowhere[0]") == f"expected {UNKNOWN}"


def test_the_detector_finds_a_regex_and_a_python_type():
    for words in ("Expected `str` matching regex '^a$'", "Expected `int`, got `str`"):
        assert api_checks.RAW_WORDS.search(words)
    assert not api_checks.RAW_WORDS.search(A_HOST)
