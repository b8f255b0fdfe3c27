"""How soon a gateway knows of a change, from the request that makes it on."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from prefill_data.gateway.snapshots import SnapshotState

from prefill_stack.load.control_stand import ControlStand
from prefill_stack.load.http import Lines, request
from prefill_stack.load.key_checks import fed_state

CHANGES = 60
PAUSE_SECONDS = 0.3
LOOK_SECONDS = 0.002
MOST_SECONDS = 60.0


@dataclass(frozen=True)
class Change:
    """One request of an operator for one tenant, and how the gateway's state looks after it."""

    wanted: bytes
    seen: Callable[[SnapshotState], bool]


async def change_seconds(stand: ControlStand, lines: Lines) -> list[float]:
    """Of each change: a key is made, limited, revoked, at another tenant each time."""
    found: list[float] = []
    loop = asyncio.get_running_loop()
    async with fed_state(stand) as state:
        for number in range(CHANGES):
            change = await _change(stand, lines, number)
            started = loop.time()
            await lines.ask(change.wanted)
            async with asyncio.timeout(MOST_SECONDS):
                while not change.seen(state):  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(LOOK_SECONDS)
            found.append(loop.time() - started)
            await asyncio.sleep(PAUSE_SECONDS)
    return found


async def _change(stand: ControlStand, lines: Lines, number: int) -> Change:
    """Every other one limits a tenant, every other one revokes a key that is made for it."""
    tenant = f"ten_crowd{number * 37 % len(stand.secrets):06d}"
    named = (f"Prefill-Tenant: {tenant}", "If-Match: *")
    if number % 2:
        body = json.dumps({"concurrency": 1000 + number}).encode()
        return Change(
            request("PUT", "/v1/limits/tenant", stand.operator, body, named),
            lambda state: state.entries[tenant].limits.concurrency == 1000 + number,
        )
    body = json.dumps({"name": f"change {number}", "scopes": ["prefill"]}).encode()
    made = await lines.ask(request("POST", "/v1/keys", stand.operator, body, named))
    key_id = json.loads(made)["key"]["id"]
    return Change(
        request("POST", f"/v1/keys/{key_id}/revoke", stand.operator, b"{}", named),
        lambda state: any(
            key.key_id == key_id and key.revoked for key in state.entries[tenant].keys
        ),
    )
