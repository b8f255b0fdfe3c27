"""The one boundary of a request: caller, limits, body, transaction, remembered answer, commit.

Handlers and services never commit. An answer leaves only after its transaction is durable; a
refusal undoes whatever was written before it.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from litestar import Request
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.access.authenticate import Authenticator
from prefill_control.access.scopes import Scope as Permission
from prefill_control.access.secrets import Pepper
from prefill_control.db import Database, OfNobody, OfOneTenant, OfOperator, Reach
from prefill_control.errors import ControlError, ProblemCode, invalid, not_found
from prefill_control.tenants.models import PLATFORM_TENANT, Tenant
from prefill_control.web.body import BodyLimits, check_json, read_body, replay
from prefill_control.web.ids import request_id_of
from prefill_control.web.metrics import Metrics
from prefill_control.web.problems import answer_problem
from prefill_control.web.remembered import Answer, Asked, asked_under, recall, remember
from prefill_control.web.shapes import shaped
from prefill_control.web.throttle import Throttle
from prefill_control.work import CHANGED, KEEP, Actor, Clock, Random, Work

NEEDS = "needs"  # the opt of a handler: a Permission, or PUBLIC
PUBLIC = "public"
FLEET_HEADER = "prefill-fleet-token"
FLEET = "fleet"  # our own gateways, by the fleet's token
WORK = "prefill_work"
STRANGER = Actor("stranger", "", "", frozenset())
GATEWAY = Actor("fleet", "gateway", PLATFORM_TENANT, frozenset({Permission.PLATFORM}))
TENANT_ID = re.compile(r"ten_[0-9a-z_]{1,60}")
KEPT_HEADERS = frozenset({b"content-type", b"etag", b"location"})
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the boundary works with."""

    database: Database
    authenticator: Authenticator
    pepper: Pepper
    throttle: Throttle
    limits: BodyLimits
    fleet_limits: BodyLimits
    fleet_token: bytes = field(repr=False)
    metrics: Metrics
    now: Clock
    random: Random
    monotonic: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Collected:
    """An answer that is held until the transaction is durable."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    async def take(self, message: Message) -> None:
        """A `send` that sends nothing yet."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message["body"]

    def answer(self) -> Answer:
        """As it is remembered: without the headers that belong to one sending."""
        kept = [(name, value) for name, value in self.headers if name.lower() in KEPT_HEADERS]
        return Answer(self.status, kept, bytes(self.body))


class Boundary(ASGIMiddleware):
    """Wraps every handler that says what it needs; health, metrics and documents pass by."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """One request, from its headers to its committed answer or its refusal."""
        needed = scope["route_handler"].opt.get(NEEDS)
        if needed is None:
            await next_app(scope, receive, send)
            return
        try:
            await self._handle(needed, scope, receive, send, next_app=next_app)
        except Exception as error:  # noqa: BLE001 (logged and answered there, as by the framework)
            # The framework thinks that an answer has begun: it was collected, never sent.
            refusal = answer_problem(Request(scope), error)
            await refusal.to_asgi_response(app=None, request=Request(scope))(scope, receive, send)

    async def _handle(
        self, needed: str, scope: Scope, receive: Receive, send: Send, *, next_app: ASGIApp
    ) -> None:
        parts, headers = self._parts, Headers.from_scope(scope)
        started = parts.monotonic()
        method, client = str(scope.get("method", "GET")), scope["client"]
        address = client[0] if client else ""
        actor = await self._actor(needed, headers, address)
        told = parts.throttle.take(actor.id or f"address {address}")
        if needed not in (PUBLIC, FLEET):
            actor.need(Permission(needed))
        limits = parts.fleet_limits if needed == FLEET else parts.limits
        body = await _body(method, receive, headers, limits)
        body = shaped(scope["route_handler"], body)
        reach, tenant_id = reach_of(actor, headers.get("prefill-tenant"))
        asked = None
        if method == "POST" and tenant_id and "idempotency-key" in headers:
            asked = self._asked(scope, headers["idempotency-key"], tenant_id, body)
        collected = Collected()
        async with parts.database.transaction(reach) as session:
            await _check_named(session, reach)
            scope["state"][WORK] = Work(
                session=session,
                actor=actor,
                tenant_id=tenant_id,
                now=parts.now(),
                random=parts.random,
                request_id=request_id_of(scope),
                address=address,
            )
            again = await recall(session, asked, parts.now()) if asked else None
            if again is not None:
                told.append((b"idempotency-replayed", b"true"))
                collected = Collected(again.status, list(again.headers), bytearray(again.body))
            else:
                await next_app(scope, replay(body, receive), collected.take)
                await self._settle(session, asked, collected)
        if session.info.get(CHANGED):  # a key, a member or a tenant, for all that is known here
            parts.authenticator.forget()
        parts.metrics.observe(
            str(getattr(scope["route_handler"], "operation_id", "")),
            collected.status,
            parts.monotonic() - started,
        )
        await _forward(collected, told, send)

    async def _actor(self, needed: str, headers: Headers, address: str) -> Actor:
        shown = headers.get("authorization", "")
        if needed == PUBLIC:
            return STRANGER
        try:
            if needed == FLEET:
                return self._gateway(headers.get(FLEET_HEADER, ""))
            return await self._parts.authenticator.actor(shown, self._parts.now(), address)
        except ControlError as refusal:
            if refusal.http_status == 401:  # guessing is throttled by address
                self._parts.throttle.take(f"refused {address}")
            raise

    def _gateway(self, shown: str) -> Actor:
        token = self._parts.fleet_token
        if not token or not hmac.compare_digest(shown.encode(), token.hex().encode()):
            raise ControlError(ProblemCode.NOT_AUTHENTICATED, "this is not the fleet's token")
        return GATEWAY

    def _asked(self, scope: Scope, key: str, tenant_id: str, body: bytes) -> Asked:
        query = scope["query_string"].decode("latin-1")
        request = ("POST", f"{scope['path']}?{query}", body)
        return asked_under(self._parts.pepper, key, tenant_id, request)

    async def _settle(
        self, session: AsyncSession, asked: Asked | None, collected: Collected
    ) -> None:
        """Undo what a refusal wrote; keep a success together with its answer."""
        if collected.status >= 400:
            if not session.info.get(KEEP):
                await session.rollback()
        elif asked is not None:
            await session.flush()
            await remember(session, asked, collected.answer(), self._parts.now())


async def _check_named(session: AsyncSession, reach: Reach) -> None:
    """An operator who names a tenant that is not there is told so, whatever they asked for."""
    if isinstance(reach, OfOperator) and reach.tenant_id:
        found = await session.scalar(select(Tenant.id).where(Tenant.id == reach.tenant_id))
        if found is None:
            raise not_found("tenant")


async def _body(method: str, receive: Receive, headers: Headers, limits: BodyLimits) -> bytes:
    if method not in WITH_BODY:
        return b""
    body = await read_body(receive, headers.get("content-length", ""), limits)
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if body and kind != "application/json":
        raise ControlError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"the body is {kind[:60]!r}")
    check_json(body, limits)
    return body


def reach_of(actor: Actor, named_tenant: str | None) -> tuple[Reach, str]:
    """Whose rows a request reaches, and whose its new rows are. Only operators name a tenant."""
    if not actor.tenant_id:
        return OfNobody(), ""
    if named_tenant is not None and not TENANT_ID.fullmatch(named_tenant):
        raise invalid("Prefill-Tenant", "a tenant's id")
    if named_tenant and named_tenant != actor.tenant_id:
        if not actor.is_operator:
            raise ControlError(
                ProblemCode.PERMISSION_DENIED, "only operators name a tenant in Prefill-Tenant"
            )
        return OfOperator(named_tenant), named_tenant
    if actor.is_operator:
        return OfOperator(named_tenant or ""), PLATFORM_TENANT
    return OfOneTenant(actor.tenant_id), actor.tenant_id


async def _forward(collected: Collected, told: list[tuple[bytes, bytes]], send: Send) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": collected.status,
        "headers": [*collected.headers, *told],
    }
    if not any(name.lower() == b"content-length" for name, _ in collected.headers):
        size = (b"content-length", str(len(collected.body)).encode())
        start["headers"] = [*collected.headers, size, *told] if collected.body else start["headers"]
    await send(start)
    await send({"type": "http.response.body", "body": bytes(collected.body), "more_body": False})
