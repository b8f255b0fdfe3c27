"""What a part of the platform serves, asked again and again from the moment it was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from prefill_cloud import AsyncClient, PrefillCloudError
from prefill_cloud.manage import Account, KeyValues, ManagementError
from prefill_cloud.manage.verbs import Awaited
from prefill_engine.identity import identify
from prefill_engine.schema import state_schema
from prefill_wire.identity import ModelIdentity

from prefill_stack.errors import StackError
from prefill_stack.platform.keeper import Keeper
from prefill_stack.platform.platform import Platform

Serve = Callable[[], Awaitable[object]]
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.05
DEADLINE_SECONDS = 10.0
PROMPT_TOKENS = 70


async def recovery(keeper: Keeper, name: str, serve: Serve) -> float:
    """Seconds from kill -9 until `serve` succeeds; StackError when it never does."""
    pid = next(kept.part.pid for kept in keeper.kept if kept.part.name == name)
    if pid is None:
        raise StackError(f"{name} does not run", "run the bench on a machine with less to do")
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while time.monotonic() - began < PATIENCE_SECONDS:
        try:
            await serve()
        except (PrefillCloudError, ManagementError):
            await asyncio.sleep(LOOK_SECONDS)
        else:
            return round(time.monotonic() - began, 2)
    raise StackError(f"{name} did not recover in {PATIENCE_SECONDS} s", "read its log")


@dataclass
class Customer:
    """An account whose keys come and go. What fails raises PrefillCloudError or ManagementError."""

    platform: Platform
    place: str
    account: Account[Awaited]
    numbers: count[int] = field(default_factory=count)

    async def issue(self) -> str:
        """A write over the REST API: a new key."""
        values = KeyValues(name=f"{next(self.numbers)}", scopes=["prefill"])
        return (await self.account.keys.create(values)).secret.text

    def newcomer(self) -> Serve:
        """A key that is issued when this is first asked, and gets in."""
        secret = ""

        async def let_in() -> None:
            nonlocal secret
            secret = secret or await self.issue()
            await self.prefill(secret)

        return let_in

    async def prefill(self, key: str = "") -> None:
        """Of a prompt that nobody has sent before; by a key that gateways know, or this one."""
        name, folder = next(iter(self.platform.plan.checkpoints.items()))
        found = identify(folder)
        identity = ModelIdentity(name, found.fingerprint, found.tokenizer_fingerprint, "fp32")
        tokens = np.random.default_rng(next(self.numbers)).integers(0, 190, PROMPT_TOKENS)
        async with AsyncClient(
            self.platform.endpoints[self.place],
            key or self.platform.tenant_keys["demo"],
            control_public_key=self.platform.control_public_key,
            fallback="never",
        ) as client:
            schema = state_schema(found.config, "fp32")
            await client.prefill(
                tokens.astype(np.uint32), identity, schema, deadline_seconds=DEADLINE_SECONDS
            )
