"""The real application on a real database, a clock that tests move, and callers with rights."""

import datetime as dt
import itertools
import os
from dataclasses import dataclass, replace

import httpx
from prefill_control.access.first_operator import INSTALLER, first_operator
from prefill_control.access.scopes import Scope
from prefill_control.app import build_parts, create_app
from prefill_control.db import OfOneTenant, OfOperator
from prefill_control.keys.service import KeyDraft
from prefill_control.keys.service import create as create_key
from prefill_control.settings import ControlSettings
from prefill_control.tenants.service import create as create_tenant
from prefill_control.work import Work
from prefill_wire.signing import SigningKey

START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
ADDRESS = "127.0.0.1"
NUMBERS = itertools.count()
CONTROL = SigningKey.from_seed(bytes(range(1, 33)))
FLEET_TOKEN = b"the-token-of-this-fleet-32-bytes"


@dataclass(frozen=True)
class Caller:
    """A tenant and one key of it."""

    tenant_id: str
    key_id: str
    secret: str

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.secret}"}


class ControlApi:
    """One application; `now` is the clock of all its decisions."""

    def __init__(self, app_url, **changes):
        settings = ControlSettings(
            host=ADDRESS,
            port=0,
            database_url=app_url,
            pepper=bytes(range(32)),
            control_seed=CONTROL.seed(),
            fleet_token=FLEET_TOKEN,
            requests_per_second=1_000_000,
            requests_burst=1_000_000,
            key_cache_seconds=0.0,
        )
        self.now = START
        self.settings = replace(settings, **changes)
        self.parts = build_parts(self.settings, lambda: self.now)
        self.app = create_app(self.settings, self.parts)
        self.client = self.client_from(ADDRESS)

    def client_from(self, address):
        transport = httpx.ASGITransport(self.app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://control")

    async def close(self):
        await self.client.aclose()
        await self.parts.database.close()

    async def operator(self):
        """The first operator, and another one for every later call."""
        parts = self.parts
        secret = await first_operator(parts.database, parts.pepper, parts.now, parts.random)
        if secret is None:
            return await self.caller("ten_platform", list(Scope))
        return Caller("ten_platform", "", secret)

    async def tenant(self, name=""):
        """A fresh tenant's id."""
        async with self.parts.database.transaction(OfOperator()) as session:
            work = self.work(session, "ten_platform")
            return (await create_tenant(work, name or f"Tenant {next(NUMBERS)}")).id

    async def caller(self, tenant_id="", scopes=("manage:*", "account:read"), **more):
        """A key with these scopes, in a tenant of its own unless one is named."""
        tenant_id = tenant_id or await self.tenant()
        draft = KeyDraft(name=f"key {next(NUMBERS)}", scopes=[str(s) for s in scopes], **more)
        async with self.parts.database.transaction(OfOneTenant(tenant_id)) as session:
            issued = await create_key(self.work(session, tenant_id), self.parts.pepper, draft)
            return Caller(tenant_id, issued.key.id, issued.secret.text)

    def work(self, session, tenant_id):
        return Work(
            session=session,
            actor=INSTALLER,
            tenant_id=tenant_id,
            now=self.now,
            random=os.urandom,
            request_id="req_test",
        )

    async def send(self, caller, verb, path, body=None, **headers):
        """One request; header names with underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        shown = caller.headers if caller else {}
        return await self.client.request(verb, path, json=body, headers={**shown, **named})
