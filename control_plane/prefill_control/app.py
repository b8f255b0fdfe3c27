"""The application: nouns, boundary, problems, health, metrics, documents."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler

from prefill_control.access.authenticate import Authenticator
from prefill_control.access.secrets import Pepper
from prefill_control.audit.controller import AuditController
from prefill_control.datacenters.controller import DatacenterController
from prefill_control.datacenters.wishes_controller import RouteController, WishController
from prefill_control.db import Database, PoolPlan, utc_now
from prefill_control.fleet.controller import FleetController
from prefill_control.keys.controller import KeyCheckController, KeyController
from prefill_control.members.controller import MemberController, SessionController
from prefill_control.models.controller import GrantController, ModelController
from prefill_control.models.prices_controller import (
    OverrideController,
    PriceController,
    QuoteController,
)
from prefill_control.quotas.controller import LimitsController
from prefill_control.quotas.gcra import Rate
from prefill_control.settings import ControlSettings
from prefill_control.tenants.controller import TenantController
from prefill_control.usage.controller import IngestController, UsageController
from prefill_control.web.body import BodyLimits
from prefill_control.web.boundary import Boundary, Parts
from prefill_control.web.documents import CompleteJson
from prefill_control.web.ids import tell_request_id
from prefill_control.web.methods import tell_methods
from prefill_control.web.metrics import Metrics
from prefill_control.web.open_pages import (
    docs_page,
    index,
    live,
    metrics_text,
    openapi_document,
    ready,
)
from prefill_control.web.problems import answer_problem
from prefill_control.web.schemas import provide_page, provide_work
from prefill_control.web.throttle import Throttle
from prefill_control.work import Clock

VERSION = "1.0.0"
FLEET_BODY_BYTES = 1 << 20  # a batch of receipts with their certificates
NOUNS: list[ControllerRouterHandler] = [
    TenantController,
    MemberController,
    SessionController,
    KeyController,
    KeyCheckController,
    AuditController,
    LimitsController,
    DatacenterController,
    WishController,
    RouteController,
    ModelController,
    GrantController,
    PriceController,
    OverrideController,
    QuoteController,
    UsageController,
    IngestController,
    FleetController,
]
OPEN: list[ControllerRouterHandler] = [
    index,
    openapi_document,
    docs_page,
    live,
    ready,
    metrics_text,
]


def build_parts(settings: ControlSettings, now: Clock = utc_now) -> Parts:
    """The process's parts, from its settings; tests bring a clock of their own."""
    database = Database(settings.database_url, PoolPlan(size=settings.pool_size))
    pepper = Pepper(settings.pepper, settings.api_key_pepper)
    rate = Rate(settings.requests_per_second, settings.requests_burst)
    remembered = settings.key_cache_seconds
    return Parts(
        database=database,
        authenticator=Authenticator(database, pepper, time.monotonic, remembered),
        pepper=pepper,
        throttle=Throttle(rate, _monotonic_us),
        limits=BodyLimits(settings.max_body_bytes, settings.max_json_depth),
        fleet_limits=BodyLimits(FLEET_BODY_BYTES, settings.max_json_depth),
        fleet_token=settings.fleet_token,
        metrics=Metrics(database.connections_out),
        now=now,
        random=os.urandom,
    )


def create_app(settings: ControlSettings, parts: Parts | None = None) -> Litestar:
    """An ASGI application; closing it closes its database connections."""
    parts = parts or build_parts(settings)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        yield
        await parts.database.close()

    return Litestar(
        route_handlers=[*NOUNS, *OPEN],
        middleware=[Boundary(parts)],
        dependencies={
            "work": Provide(provide_work, sync_to_thread=False),
            "page": Provide(provide_page, sync_to_thread=False),
            "pepper": Provide(lambda: parts.pepper, sync_to_thread=False),
            "parts": Provide(lambda: parts, sync_to_thread=False),
        },
        exception_handlers={Exception: answer_problem},
        before_send=[tell_request_id, tell_methods],
        lifespan=[lifespan],
        state=State(
            {
                "parts": parts,
                "settings": settings,
                "failures": parts.metrics.failures,
                "control_public_key": settings.control_public_key,
            }
        ),
        openapi_config=describe(settings),
        request_max_body_size=None,  # the boundary reads bodies, and limits them
        logging_config=None,
    )


def describe(settings: ControlSettings) -> OpenAPIConfig:
    """OpenAPI 3.1, served as JSON; the page for people is made of it."""
    bearer = SecurityScheme(type="http", scheme="bearer", description="An API key or a session.")
    return OpenAPIConfig(
        title="Prefill Cloud",
        version=VERSION,
        description="Who may prefill, where, how much, at what price.",
        path="/openapi",
        render_plugins=[CompleteJson(path="/openapi.json")],
        components=Components(security_schemes={"bearer": bearer}),
        security=[{"bearer": []}],
        use_handler_docstrings=True,
    )


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000
