"""Bench `recovery`: seconds from kill -9 of a part until what it serves first succeeds again.

The platform runs as `up` keeps it; one part after the other is killed, each on a platform that is
whole again. Control plane and PostgreSQL serve the REST API: a key is issued. Redis brings what
changed to gateways: a key that is issued after the kill gets in. A gateway serves prefills.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefill_stack.platform.keeper import Keeper
    from prefill_stack.platform.platform import Platform

LIMIT_SECONDS = 15.0


def run() -> dict[str, object]:
    """Each part once, with the limit that all are held to."""
    from prefill_stack import shipped
    from prefill_stack.load.open_loop import neighbours
    from prefill_stack.platform.keeper import Keeper
    from prefill_stack.platform.plan import PlatformPlan
    from prefill_stack.platform.run import PlatformStart
    from prefill_stack.services.account import remove_homes
    from prefill_stack.supervisor import Supervisor

    keeper = Keeper(say=lambda line: None)
    with (
        tempfile.TemporaryDirectory(prefix="prefill-bench-recovery-") as name,
        Supervisor() as children,
    ):
        try:
            plan = PlatformPlan(Path(name), {shipped.MQAR: shipped.checkpoint(shipped.MQAR)})
            platform = PlatformStart(plan, keeper, children).run()
            keeper.keep()
            found = asyncio.run(_recoveries(platform, keeper))
        finally:
            keeper.destroy()
            remove_homes(Path(name))  # of what did not even start
    return {**found, "limit_seconds": LIMIT_SECONDS, **neighbours()}


async def _recoveries(platform: "Platform", keeper: "Keeper") -> dict[str, object]:
    from prefill_cloud.manage import AsyncManagementClient

    from prefill_stack.load.recovery import Customer, recovery

    place = next(iter(platform.endpoints))
    async with AsyncManagementClient(platform.api_url, platform.operator) as operator:
        tenant = await operator.tenants.create("recovery")
        customer = Customer(platform, place, operator.for_tenant(tenant.id))
        return {
            "control_plane_seconds": await recovery(keeper, "control", customer.issue),
            "postgres_seconds": await recovery(keeper, "postgres", customer.issue),
            "redis_seconds": await recovery(keeper, "redis", customer.newcomer()),
            "gateway_seconds": await recovery(keeper, f"{place}-gateway", customer.prefill),
        }
