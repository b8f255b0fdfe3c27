"""`/v1/fleet`."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.datastructures import State
from litestar.params import QueryParameter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from prefill_control.access.scopes import Scope
from prefill_control.errors import ControlError, Extras, ProblemCode
from prefill_control.fleet.schemas import ProcessView
from prefill_control.fleet.service import FleetView, fleet_view
from prefill_control.settings import ControlSettings
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import Listing, ThisWork
from prefill_control.work import Work

ANSWER_SECONDS = 2.0
Word = Annotated[str, QueryParameter(max_length=80, description="Only of this.")]


class FleetController(Controller):
    """Workers and gateways, for operators."""

    path = "/v1/fleet"
    tags = ("fleet",)

    @get(operation_id="listFleet", opt={NEEDS: Scope.PLATFORM})
    async def list_all(
        self, work: ThisWork, state: State, role: Word = "", datacenter: Word = ""
    ) -> Listing[ProcessView]:
        """List workers and gateways with what they told last, all on one page."""
        found = await look(state["settings"], work)
        views = [ProcessView.of(process) for process in found.processes]
        wanted = [
            view
            for view in views
            if role in ("", view.role) and datacenter in ("", view.datacenter)
        ]
        return Listing(items=wanted, next_cursor="")


async def look(settings: ControlSettings, work: Work) -> FleetView:
    """UNAVAILABLE without Redis' answer; a control plane that was given no Redis knows nobody."""
    if not settings.redis_url:
        return FleetView((), 0)
    try:
        async with Redis.from_url(
            settings.redis_url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        ) as redis:
            return await fleet_view(redis, settings.control_public_key, work.now)
    except (RedisError, OSError, TimeoutError) as error:
        raise ControlError(
            ProblemCode.UNAVAILABLE,
            "the fleet's state cannot be read now",
            extras=Extras(retry_after_seconds=2),
        ) from error
