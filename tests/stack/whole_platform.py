"""A whole platform for tests: services, control plane and two datacenters, kept running."""

import asyncio
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from prefill_cloud import AsyncClient, PrefillCloudError
from prefill_cloud.manage import AsyncManagementClient
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import read_receipts
from prefill_stack import shipped
from prefill_stack.platform.keeper import Keeper
from prefill_stack.platform.plan import PlatformPlan
from prefill_stack.platform.platform import Platform
from prefill_stack.platform.run import PlatformStart
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_stack.supervisor import Supervisor

BOUND_SECONDS = 180.0  # on a machine that has much else to do
LOOK_SECONDS = 0.1
HOME = "eu-central"


def prompt(seed, tokens=130):
    """Tokens that no other seed has, so that nothing is cached."""
    return np.random.default_rng(seed).integers(0, 190, tokens, dtype=np.uint32)


async def eventually(look, *errors):
    """What `look` gives once it is something; meanwhile these errors count as nothing."""
    async with asyncio.timeout(BOUND_SECONDS):
        while True:
            try:
                if found := await look():
                    return found
            except errors:
                pass
            await asyncio.sleep(LOOK_SECONDS)


@dataclass
class WholePlatform:
    """A platform that runs, with what tests ask of it; `model` is what it serves."""

    platform: Platform
    keeper: Keeper
    model: tuple  # ModelIdentity, StateSchema

    @property
    def demo_key(self):
        return self.platform.tenant_keys["demo"]

    def management(self, credential=""):
        """The management API as the operator, or as whose credential it is."""
        return AsyncManagementClient(self.platform.api_url, credential or self.platform.operator)

    def client(self, key="", place=HOME):
        return AsyncClient(
            self.platform.endpoints[place],
            key or self.demo_key,
            control_public_key=self.platform.control_public_key,
            fallback="never",
            codec_policy="exact",
        )

    async def prefill(self, tokens, key="", **options):
        """One prefill by a client of its own."""
        async with self.client(key) as client:
            return await client.prefill(tokens, *self.model, deadline_seconds=60, **options)

    async def refusal(self, key):
        """The code by which a prefill with this key is refused; empty when it is not."""
        try:
            await self.prefill(prompt(0, 8), key)
        except PrefillCloudError as error:
            return error.code.name
        return ""

    async def rows(self, key="", **only):
        """Receipts as the control plane counted them, by id."""
        async with self.management(key) as client:
            found = [row async for row in client.usage.receipts(**only)]
        assert len({row.receipt_id for row in found}) == len(found)
        return {row.receipt_id: row for row in found}

    def spooled(self):
        """Every record in every gateway's spool."""
        root = self.platform.plan.directory
        folders = [root / place.name / "gateway" / "spool" for place in self.platform.plan.places]
        return [BilledAttempt.decode(b) for folder in folders for b in read_receipts(folder)]

    def part(self, name):
        return next(kept.part for kept in self.keeper.kept if kept.part.name == name)

    def kill(self, name):
        """kill -9; the process that died."""
        victim = psutil.Process(self.part(name).pid)
        os.kill(victim.pid, signal.SIGKILL)
        return victim

    async def restarted(self, name, times):
        """Until the keeper has started a part again so many times in all."""
        kept = next(kept for kept in self.keeper.kept if kept.part.name == name)

        async def look():
            return kept.restarts >= times and kept.part.alive

        await eventually(look)


def remove_services(folder):
    """The data of services of our own: for root it lies outside of a test's folder."""
    if (folder / "postgres").exists():
        Postgres(PostgresPlan(folder / "postgres")).destroy()
    if (folder / "redis").exists():
        Redis(RedisPlan(folder / "redis")).destroy()


@contextmanager
def running(folder, model, **options):
    """A kept platform that serves the small model; it is taken down in the end."""
    checkpoints = {shipped.MQAR: shipped.checkpoint(shipped.MQAR)}
    plan = PlatformPlan(Path(folder), checkpoints, **options)
    keeper = Keeper(say=lambda line: None)
    with Supervisor() as supervisor:
        try:
            platform = PlatformStart(plan, keeper, supervisor).run()
            keeper.keep()
            yield WholePlatform(platform, keeper, tuple(model))
        finally:
            keeper.stop()
            remove_services(plan.directory)
