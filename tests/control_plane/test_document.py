"""The document against the application: schemathesis, every check, chains of calls included."""

import asyncio
import concurrent.futures
import datetime as dt
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import msgspec
import pytest
import uvicorn
from control_api import ControlApi
from litestar.handlers import HTTPRouteHandler
from prefill_control.db import OfOperator
from prefill_control.usage.models import RequestRecord
from prefill_control.web.documents import document_of, operations

# Signing in needs a real password and signing out ends the caller (test_members.py); requests are
# made by gateways (test_usage.py).
AFTER_EXAMPLES = dt.datetime(2030, 2, 1, tzinfo=dt.UTC)  # the examples' prices are in force
REACHED_ELSEWHERE = {"createSession", "deleteSessions", "readRequest"}
SETTINGS = """
hooks = "{hooks}"
[checks.positive_data_acceptance]
# Besides the tool's own: a stale or missing If-Match, and values that fit their type but can't be.
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "428", "429"]
"""
RUNS = [
    pytest.param(("examples,fuzzing,stateful", 3), id="short"),
    pytest.param(("examples,coverage,fuzzing,stateful", 25), id="long", marks=pytest.mark.nightly),
]
# What an object has to go through before some operations can succeed on it.
BEFORE = {
    "resumeTenant": ["suspendTenant"],
    "readLimits": ["putLimits"],
    "deleteLimits": ["putLimits"],
    "uncordonDatacenter": ["cordonDatacenter"],
    "undrainDatacenter": ["drainDatacenter"],
}


class Served:
    """The application behind a real server in a thread, with an operator's key."""

    def __init__(self, urls):
        self._urls = urls
        self.api = self.secret = self.url = None
        self._ready = concurrent.futures.Future()  # None, or what kept it from starting
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        self._ready.result(timeout=120)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()

    async def _run(self):
        try:
            await self._serve()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self):
        self.api = ControlApi(self._urls.app, key_cache_seconds=60.0)
        self.secret = (await self.api.operator()).secret
        await self._seed()
        config = uvicorn.Config(self.api.app, port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._server.config.load()
        socket = config.bind_socket()
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        self._ready.set_result(None)
        await self._server.serve(sockets=[socket])
        await self.api.client.aclose()

    async def _seed(self):
        async with self.api.parts.database.transaction(OfOperator()) as session:
            session.add(
                RequestRecord(
                    request_id="req_seed", attempt=1, tenant_id="ten_platform", at=self.api.now,
                    key_id="", model="m", token_count=2, outcome="delivered", datacenter="d",
                    timeline={},
                )
            )  # fmt: skip

    def reached(self):
        """Operation -> the statuses that it answered with."""
        found = {}
        for metric in self.api.parts.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == "prefill_control_request_seconds_count":
                    labels = sample.labels
                    found.setdefault(labels["operation"], set()).add(int(labels["status"]))
        return found


@pytest.fixture
def fresh(cluster):
    """A database for one served application: it writes the same rows each time."""
    return cluster.copy()


def run_schemathesis(served, folder, phases, examples):
    (folder / "schemathesis.toml").write_text(SETTINGS.format(hooks="api_checks"), encoding="utf-8")
    command = [
        str(Path(sys.executable).parent / "st"), "--config-file", str(folder / "schemathesis.toml"),
        "run", f"{served.url}/openapi/openapi.json", "--checks", "all",
        "--phases", phases, "--max-examples", str(examples),
        "--generation-deterministic", "--continue-on-failure", "--no-shrink",
        "--header", f"Authorization: Bearer {served.secret}", "--warnings", "off",
        "--exclude-operation-id", "deleteSessions",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


class Walk:
    """Follows every link of the document with the document's own examples."""

    def __init__(self, served):
        self._client = httpx.Client(
            base_url=served.url, headers={"Authorization": f"Bearer {served.secret}"}, timeout=60
        )
        self._numbers = itertools.count()
        self._first = {}
        self.operations = {
            operation["operationId"]: (verb, path, operation)
            for path, item in document_of(served.api.app)["paths"].items()
            for verb, operation in item.items()
        }

    def close(self):
        self._client.close()

    def call(self, name, parameters=None, *, fresh=False):
        """One operation with its example; `fresh` makes names unlike any other."""
        verb, path, operation = self.operations[name]
        media = operation.get("requestBody", {}).get("content", {}).get("application/json")
        body = None if media is None else dict(media["example"])
        for field in {"name", "email"} & set(body or ()) if fresh else ():
            body[field] = f"a{next(self._numbers)}-{body[field].lower().replace(' ', '-')}"
        headers = {}
        for key, value in (parameters or {}).items():
            place, _, field = key.partition(".")
            if place == "path":
                path = path.replace(f"{{{field}}}", value)
            else:
                headers[field] = value
        return self._client.request(verb.upper(), path, json=body, headers=headers)

    def follow(self, maker, status, link):
        """Make an object, do what has to be done before, then what the link leads to."""
        made = self.call(maker, fresh=True)
        if made.status_code == 409:  # a model is granted once
            made = self._first[maker]
        self._first.setdefault(maker, made)
        assert made.status_code == int(status), (maker, made.text)
        parameters = {k: resolve(made, where) for k, where in link["parameters"].items()}
        for before in BEFORE.get(link["operationId"], ()):
            self.call(before, parameters)
        return self.call(link["operationId"], parameters)


def resolve(response, expression):
    """`$response.body#/key/id` and `$response.header.ETag`."""
    if expression.startswith("$response.header."):
        return response.headers[expression.removeprefix("$response.header.")]
    found = response.json()
    for part in expression.removeprefix("$response.body#/").split("/"):
        found = found[part]
    return found


def test_every_link_and_every_example_leads_to_a_success(fresh):
    with Served(fresh) as served:
        walk = Walk(served)
        for name in ("createModel", "createDatacenter", "createPrice", "createPriceOverride"):
            assert walk.call(name).status_code == 201
        served.api.now = AFTER_EXAMPLES
        for maker, (_, _, operation) in walk.operations.items():
            for status, response in operation["responses"].items():
                for link in response.get("links", {}).values():
                    answer = walk.follow(maker, status, link)
                    assert answer.is_success, (link, answer.text)
        for name in sorted(set(walk.operations) - set(served.reached()) - REACHED_ELSEWHERE):
            answer = walk.call(name)
            assert answer.is_success, (name, answer.text)
        walk.close()
        reached = served.reached()
    names = set(walk.operations) - REACHED_ELSEWHERE
    missed = {n for n in names if not {200, 201, 204} & reached.get(n, set())}
    assert not missed, {n: reached.get(n) for n in missed}


@pytest.mark.parametrize("run", RUNS)
def test_schemathesis_finds_nothing(fresh, tmp_path, run):
    with Served(fresh) as served:
        done = run_schemathesis(served, tmp_path, *run)
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]


def test_every_body_has_an_example_that_its_type_takes(api):
    document = document_of(api.app)
    bodies = {
        operation["operationId"]: operation["requestBody"]["content"]["application/json"]
        for item in document["paths"].values()
        for operation in item.values()
        if "requestBody" in operation
    }
    kinds = {
        handler.operation_id: handler.parsed_data_field.annotation
        for handler in operations(api.app)
        if isinstance(handler, HTTPRouteHandler) and handler.parsed_data_field
    }
    assert len(bodies) >= 25
    for name, media in bodies.items():
        msgspec.convert(media["example"], kinds[name])


def test_every_refusal_is_documented_as_a_problem(api):
    for path, item in document_of(api.app)["paths"].items():
        for operation in item.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                kinds = set(response.get("content", {}))
                wanted = {"application/problem+json"} if status[0] in "45" else kinds
                assert kinds == wanted, (path, status)


MONEY = "_micros"


def moneyed(document):
    """Schemas of answers that hold an amount; a preference's cap is a wish, as it was sent."""
    return {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if name.endswith("View") and name != "PreferenceView"
        if any(field.endswith(MONEY) for field in schema.get("properties", {}))
    }


def test_every_amount_comes_with_its_currency(api):
    found = moneyed(document_of(api.app))
    assert len(found) >= 5
    for name, schema in found.items():
        assert "currency" in schema["required"], name
        told = schema["properties"]["currency"]
        assert "ISO 4217" in told["description"], name
        assert {*told.get("enum", ()), told.get("const", "USD")} == {"USD"}, name


async def test_the_root_leads_to_the_document(api):
    links = (await api.client.get("/")).json()
    for name in ("docs", "openapi", "live", "ready", "metrics"):
        assert (await api.client.get(links[name])).status_code == 200, name
    page = await api.client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["location"]) == (302, "/docs")
    document = (await api.client.get("/openapi.json")).json()
    assert document == (await api.client.get("/openapi/openapi.json")).json()
    assert links["version"] == document["info"]["version"]
