"""Bench `api`: key checks, lists, usage and limits with 10,000 tenants and 1,000,000 receipts.

Key checks are those that every prefill meets: in one process, as a gateway makes them, by snapshot
and limits, while the control plane publishes. `rest_key_checks_per_second` is the same question
over `POST /v1/key-checks` at one control-plane process, as fast as 8 callers get answers. Lists and
usage go over REST, in open loop, by callers who are all different and so never remembered.
`snapshot_change_p99_seconds` is how long a revoked key or a changed limit takes from the request to
a gateway's decision, with everybody published and lists being read meanwhile.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefill_stack.load.control_stand import ControlStand
    from prefill_stack.load.crowd import CrowdPlan
    from prefill_stack.load.http import Lines
    from prefill_stack.load.open_loop import Call

CHECKS_PER_SECOND, CHECK_SECONDS = 4_000.0, 6.0
READS_PER_SECOND, READ_SECONDS = 25.0, 16.0
OPERATOR_CALLS = 10
CHANGE_READS_PER_SECOND, CHANGE_SECONDS = 5.0, 30.0
REST_CALLERS, REST_CALLS = 8, 500
HAMMER_SECONDS = 8.0
LINES = 16
LISTS = ("/v1/receipts?limit=50", "/v1/keys?limit=50", "/v1/tenants?limit=50")
USAGES = (
    "/v1/usage?group_by=model&group_by=day&limit=50",
    "/v1/usage?group_by=datacenter&group_by=month",
    "/v1/usage",
)
LIMITS = {"least_key_checks_per_second": 3_000, "most_key_check_p99_ms": 20,
          "most_list_p99_ms": 100, "most_usage_p99_ms": 100, "most_over_grant": 0.005,
          "most_snapshot_change_p99_seconds": 5}  # fmt: skip


def run(plan: "CrowdPlan | None" = None) -> dict[str, object]:
    """Fills fresh services, then measures; some minutes, most of them filling."""
    from prefill_stack.load.control_stand import control_stand
    from prefill_stack.load.crowd import CrowdPlan
    from prefill_stack.load.open_loop import neighbours

    plan = plan or CrowdPlan()
    with control_stand(plan) as stand:
        found = asyncio.run(_measure(stand))
    return {
        **found,
        "tenants": plan.tenants,
        "receipts": plan.receipts,
        **LIMITS,
        "load_generator": "one Python process on the same machine; key checks run in that process",
        **neighbours(),
    }


async def _measure(stand: "ControlStand") -> dict[str, object]:
    from prefill_stack.load.http import Lines
    from prefill_stack.load.over_grant import hammer

    found = await _gateway_checks(stand)
    async with Lines("127.0.0.1", stand.port, LINES) as lines:
        found |= await _rest_checks(stand, lines)
        found |= await _reads("list", LISTS, stand, lines)
        found |= await _reads("usage", USAGES, stand, lines)
        found |= await _operator_reads(stand, lines)
        found |= await _changes(stand, lines)
    hammered = await hammer(stand.gateway_redis_url, HAMMER_SECONDS)
    return {
        **found,
        "over_grant_fraction": round(hammered.over_grant(), 5),
        "over_grant_clients": 64,
        "over_grant_granted": hammered.granted,
        "over_grant_refused": hammered.refused,
    }


async def _gateway_checks(stand: "ControlStand") -> dict[str, object]:
    from prefill_stack.load.key_checks import gateway_checks
    from prefill_stack.load.open_loop import Offered, open_loop

    async with gateway_checks(stand) as checks:
        await open_loop(Offered(500.0, 1.0), checks)
        measured = await open_loop(Offered(CHECKS_PER_SECOND, CHECK_SECONDS), checks)
    return {
        "key_checks_per_second": round(measured.per_second),
        "key_check_p99_ms": measured.quantile_ms(0.99),
        "key_check_p50_ms": measured.quantile_ms(0.5),
    }


async def _rest_checks(stand: "ControlStand", lines: "Lines") -> dict[str, object]:
    from prefill_stack.load.http import request
    from prefill_stack.load.open_loop import closed_loop, cpu_seconds

    async def check(number: int) -> None:
        body = json.dumps({"secret": stand.secrets[number % len(stand.secrets)]}).encode()
        await lines.ask(request("POST", "/v1/key-checks", stand.operator, body))

    await closed_loop(REST_CALLERS, 100, check)
    before = cpu_seconds(stand.pid)
    measured = await closed_loop(REST_CALLERS, REST_CALLS, check)
    computed = cpu_seconds(stand.pid) - before
    return {
        "rest_key_checks_per_second": round(measured.per_second),
        "rest_key_check_p99_ms": measured.quantile_ms(0.99),
        "rest_key_check_cpu_ms": round(1000 * computed / REST_CALLS, 3),
    }


def _reader(paths: Sequence[str], stand: "ControlStand", lines: "Lines") -> "Call":
    """Reads of tenants' own rows; every fifth is by the one with a tenth of all receipts."""
    from prefill_stack.load.http import request

    async def read(number: int) -> None:
        caller = 0 if number % 5 == 0 else (number * 37) % len(stand.secrets)
        path = paths[number % len(paths)]
        await lines.ask(request("GET", path, stand.secrets[caller]))

    return read


async def _reads(
    name: str, paths: Sequence[str], stand: "ControlStand", lines: "Lines"
) -> dict[str, object]:
    from prefill_stack.load.open_loop import Offered, cpu_seconds, open_loop

    read = _reader(paths, stand, lines)
    await open_loop(Offered(10.0, 2.0), read)
    before = cpu_seconds(stand.pid)
    measured = await open_loop(Offered(READS_PER_SECOND, READ_SECONDS), read)
    computed = cpu_seconds(stand.pid) - before
    return {
        f"{name}_p99_ms": measured.quantile_ms(0.99),
        f"{name}_p50_ms": measured.quantile_ms(0.5),
        f"{name}_cpu_ms": round(1000 * computed / len(measured.latencies), 3),
    }


async def _operator_reads(stand: "ControlStand", lines: "Lines") -> dict[str, object]:
    """The same reads over all tenants at once, one after the other."""
    from prefill_stack.load.http import request
    from prefill_stack.load.open_loop import closed_loop

    found: dict[str, object] = {}
    for path in (*LISTS, *USAGES):

        async def read(_number: int, path: str = path) -> None:
            await lines.ask(request("GET", path, stand.operator))

        measured = await closed_loop(1, OPERATOR_CALLS, read)
        found[path] = measured.quantile_ms(0.5)
    return {"operator_p50_ms": found}


async def _changes(stand: "ControlStand", lines: "Lines") -> dict[str, object]:
    from prefill_stack.load.changes import change_seconds
    from prefill_stack.load.open_loop import Measured, Offered, cpu_seconds, open_loop

    reads = Offered(CHANGE_READS_PER_SECOND, CHANGE_SECONDS)
    reading = asyncio.create_task(open_loop(reads, _reader(LISTS, stand, lines)))
    before = cpu_seconds(stand.pid)
    seconds = await change_seconds(stand, lines)
    await reading
    measured = Measured(seconds, sum(seconds))
    return {
        "snapshot_change_p99_seconds": measured.quantile_ms(0.99) / 1000,
        "snapshot_change_p50_seconds": measured.quantile_ms(0.5) / 1000,
        "snapshot_changes": len(seconds),
        "snapshot_change_cpu_seconds": round(cpu_seconds(stand.pid) - before, 2),
    }
