"""Open's outcomes, what an acceptance is held to, and requests that are wrong before any call."""

import numpy as np
import pytest
from loopback_cloud import IDENTITY, SCHEMA, LoopbackCloud
from prefill_cloud import AsyncClient, PrefillCloudError, UseLocalError
from prefill_cloud.endpoint import Endpoint
from prefill_wire.status import STATUS_TABLE, StatusCode

TOKENS = list(range(100, 112))
FAILURES = [code for code in StatusCode if code is not StatusCode.OK]


async def prefill(client, tokens=TOKENS, **options):
    options = {"deadline_seconds": 10.0, **options}
    return await client.prefill(tokens, IDENTITY, SCHEMA, **options)


async def refused(client, **options):
    with pytest.raises(PrefillCloudError) as caught:
        await prefill(client, **options)
    return caught.value


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("call", ["Open", "Prompt"])
async def test_every_refusal_is_its_exception(cloud, connect, call, code):
    cloud.faults.refuse[call] = code
    async with connect(cloud) as client:
        error = await refused(client)
    assert type(error).__name__ == STATUS_TABLE[code].exception
    assert (error.code, error.retry_after_ms, error.remedy) == (code, 1500, "Do as told.")


async def test_a_refusal_that_grpc_hid_is_asked_for_again(cloud, connect):
    cloud.faults.bare["Prompt"] = 1
    cloud.faults.refuse["Prompt"] = StatusCode.KEY_REVOKED
    async with connect(cloud) as client:
        assert (await refused(client)).code is StatusCode.KEY_REVOKED
    assert cloud.calls["Prompt"] == 2


@pytest.mark.parametrize(("bare", "calls"), [(2, 2), (0, 1)])
async def test_a_fault_of_the_cloud_is_not_asked_for_without_end(cloud, connect, bare, calls):
    cloud.faults.bare["Prompt"] = bare
    cloud.faults.refuse["Prompt"] = StatusCode.INTERNAL
    async with connect(cloud) as client:
        assert (await refused(client)).code is StatusCode.INTERNAL
    assert cloud.calls["Prompt"] == calls


async def test_a_redirect_is_followed_to_the_other_gateway(cloud, connect):
    async with LoopbackCloud() as other:
        cloud.faults.redirect_to = [other.endpoint]
        async with connect(cloud) as client:
            await prefill(client)
    assert (cloud.calls["Open"], cloud.calls["Prompt"], cloud.calls["Claim"]) == (1, 0, 0)
    assert (other.calls["Open"], other.calls["Prompt"], other.calls["Claim"]) == (1, 1, 1)


async def test_redirects_that_do_not_end_are_left_after_two(cloud, connect):
    cloud.faults.endless_redirects = True
    async with connect(cloud) as client:
        error = await refused(client)
    assert error.code is StatusCode.NO_DATACENTER
    assert cloud.calls["Open"] == 3


async def test_a_redirect_to_nowhere_is_refused(cloud, connect):
    cloud.faults.redirect_to = ["no endpoint"]
    async with connect(cloud) as client:
        assert (await refused(client)).code is StatusCode.INTERNAL


async def test_advice_to_prefill_locally_is_an_outcome_of_its_own(cloud, connect):
    cloud.faults.use_local = "the queue is long"
    async with connect(cloud) as client:
        error = await refused(client)
        assert isinstance(error, UseLocalError)
        assert error.reason == "the queue is long"
        assert client.hint.threshold_tokens() == 4
    assert cloud.cancels == []


@pytest.mark.parametrize(
    ("accept", "options", "code"),
    [
        ({"datacenter": "us"}, {}, StatusCode.IDENTITY_FAILURE),
        ({"worker_id": "w2"}, {}, StatusCode.IDENTITY_FAILURE),
        ({"worker_certificate": b"forged"}, {}, StatusCode.INTEGRITY_FAILURE),
        ({}, {"residency": ["us"]}, StatusCode.NO_DATACENTER),
        ({}, {"max_price_micros": 9}, StatusCode.PRICE_CAP_EXCEEDED),
        ({"wire_version": 2}, {}, StatusCode.UNSUPPORTED_WIRE_VERSION),
        ({"data_endpoint": "10.0.0.1:1"}, {}, StatusCode.INTERNAL),
        ({"data_endpoint": "nonsense"}, {}, StatusCode.INTERNAL),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_acceptance_is_held_to_what_was_asked(cloud, connect, accept, options, code):
    cloud.faults.accept = accept
    async with connect(cloud) as client:
        error = await refused(client, **options)
    assert error.code is code
    assert cloud.calls["Prompt"] == 0  # the prompt went nowhere
    assert cloud.cancels == [(error.request_id, 1, str(code))]


async def test_an_acceptance_within_the_rules_is_taken(cloud, connect):
    async with connect(cloud) as client:
        await prefill(client, residency=["eu", "us"], max_price_micros=10, datacenters=["eu"])
    opened = cloud.only.opened
    assert (list(opened.residency), opened.max_price_micros) == (["eu", "us"], 10)
    assert 9_000 < opened.deadline_ms <= 10_000


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        ([], StatusCode.EMPTY_PROMPT),
        ([5], StatusCode.EMPTY_PROMPT),
        ([5, -1, 3], StatusCode.TOKEN_OUT_OF_RANGE),
        ([5, 2**32, 3], StatusCode.TOKEN_OUT_OF_RANGE),
        ([5.0, 6.0], StatusCode.MALFORMED_REQUEST),
        (np.zeros((2, 2), int), StatusCode.MALFORMED_REQUEST),
        (np.zeros(2**20 + 1, np.uint32), StatusCode.PROMPT_TOO_LONG),
    ],
    ids=["empty", "one", "negative", "beyond 32 bits", "floats", "a matrix", "too long"],
)
async def test_a_wrong_prompt_is_refused_before_any_call(cloud, connect, tokens, code):
    async with connect(cloud) as client:
        error = await refused(client, tokens=tokens)
    assert error.code is code
    assert not cloud.calls


WRONG_OPTIONS = [
    {"idempotency_key": ""},
    {"idempotency_key": "k" * 129},
    {"max_price_micros": -1},
    {"datacenters": "eu"},
    {"residency": [""]},
    {"deadline_seconds": -1.0},
    {"deadline_seconds": float("nan")},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=lambda options: next(iter(options)))
async def test_a_wrong_option_is_refused_before_any_call(cloud, connect, options):
    async with connect(cloud) as client:
        assert (await refused(client, **options)).code is StatusCode.MALFORMED_REQUEST
    assert not cloud.calls


async def test_buffers_of_another_shape_are_refused_and_the_attempt_given_up(cloud, connect):
    buffers = {spec.key: np.ones(spec.shape, "<f4") for spec in SCHEMA.tensors(len(TOKENS))}
    async with connect(cloud) as client:
        await refused(client, buffers=buffers)
    assert len(cloud.cancels) == 1


async def test_a_wrong_key_is_an_error(cloud, connect):
    async with connect(cloud, api_key="pk_other") as client:
        error = await refused(client)
    assert error.code is StatusCode.KEY_NOT_FOUND
    assert not error.falls_back


@pytest.mark.parametrize(
    "options",
    [
        {"connections": 0},
        {"connections": 5},
        {"fallback": "always"},
        {"control_public_key": b"short"},
        {"api_key": ""},
        {"api_key": "two\nlines"},
        {"tls_roots": b"no certificate"},
        {"endpoint": "localhost"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_client_with_wrong_options_is_refused(options):
    given = {"endpoint": "127.0.0.1:1", "api_key": "k", "control_public_key": b"c" * 32, **options}
    with pytest.raises(PrefillCloudError) as caught:
        AsyncClient(given.pop("endpoint"), given.pop("api_key"), **given)
    assert caught.value.code is StatusCode.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("text", "host", "loopback"),
    [
        ("127.0.0.1:50", "127.0.0.1", True),
        ("localhost:50", "localhost", True),
        ("[::1]:50", "::1", True),
        ("prefill.example:443", "prefill.example", False),
        ("10.1.2.3:50", "10.1.2.3", False),
    ],
)
def test_endpoints(text, host, loopback):
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.loopback, endpoint.text) == (host, loopback, text)


@pytest.mark.parametrize("text", ["", "host", ":5", "host:0", "host:65536", "::1:5", "a/b:5",
                                  "http://host:5"])  # fmt: skip
def test_what_is_no_endpoint(text):
    with pytest.raises(PrefillCloudError):
        Endpoint.parse(text)
