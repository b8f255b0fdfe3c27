"""Clients of the SDK on the real application; what they reached is kept by operation."""

import itertools
import re

import httpx
from prefill_cloud.manage import AsyncManagementClient, DatacenterValues, ModelValues
from prefill_control.access.scopes import Scope

NAMES = itertools.count()
HTTP_VERBS = {"get", "put", "post", "delete", "patch"}


class Watched(httpx.AsyncBaseTransport):
    """The application without a network; `seen` has each answered (method, path, status)."""

    def __init__(self, app, seen):
        self._inner, self._seen = httpx.ASGITransport(app, client=("127.0.0.1", 1)), seen

    async def handle_async_request(self, request):
        response = await self._inner.handle_async_request(request)
        self._seen.append((request.method, request.url.path, response.status_code))
        return response


class World:
    """The application, an operator's client, and what scenarios need to exist."""

    def __init__(self, api, operator):
        self.api, self.seen = api, []
        self.operator = self.client(operator.secret)

    def client(self, secret, **options):
        transport = Watched(self.api.app, self.seen)
        return AsyncManagementClient("http://127.0.0.1", secret, transport=transport, **options)

    async def admin(self):
        """A client of a fresh tenant's admin, and the tenant's id."""
        scopes = [scope for scope in Scope if scope is not Scope.PLATFORM]
        caller = await self.api.caller(scopes=scopes)
        return self.client(caller.secret), caller.tenant_id

    async def datacenter(self, **more):
        name = f"dc-{next(NAMES)}"
        values = DatacenterValues(jurisdiction="EU", endpoint="gw.eu:443", **more)
        return await self.operator.datacenters.create(name, values)

    async def model(self, **more):
        values = ModelValues(
            fingerprint="ab" * 32, tokenizer_fingerprint="cd" * 32, numerics_profile="fp32",
            context_tokens=1 << 17, **more,
        )  # fmt: skip
        return await self.operator.models.create(f"model-{next(NAMES)}", values)

    def rates(self, model):
        return {
            "model": model.name, "valid_from": self.api.now, "input_miss_micros": 2_000_000,
            "input_hit_micros": 500_000,
        }  # fmt: skip

    async def document(self):
        """The API's own OpenAPI document."""
        return (await self.api.client.get("/openapi/openapi.json")).json()

    async def reached(self):
        """The operations that were answered with a success."""
        places = patterns_of(await self.document())
        done = [(m.lower(), path) for m, path, status in self.seen if 200 <= status < 300]
        return {
            operation
            for method, path in done
            for verb, pattern, operation in places
            if verb == method and pattern.fullmatch(path)
        }


def patterns_of(document):
    """(verb, pattern of the path, operation id) of every operation."""
    return [
        (verb, re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), operation["operationId"])
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if verb in HTTP_VERBS
    ]
