"""Bench `gateway`: what a gateway adds to a prefill, against the worker called directly.

Both sides run in this run, by turns, in open loop at the same rate, with a tiny prompt: Open,
Prompt, chunks and Claim through the gateway; Admit, Run and chunks with the worker. An overhead is
the difference of the same quantile of the two. Worker, gateway and the load share the machine, so
what each of them computes for an exchange is told too: a machine that is too small for a rate says
what refused it or how far it fell behind, and measures at the next. `*_most_per_second` is what
either side carries when callers wait for nothing but their last exchange. `bare_calls_*` is the
same difference at the wanted rate between the same calls with nothing behind them, `bare_streams_*`
between the same messages over streams that stay open: what gRPC takes on this machine for the calls
of today, and about the least that it takes for any.
"""

import gc
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefill_stack.load.open_loop import Call, Measured, Offered
    from prefill_stack.local_cloud import LocalCloud

RATES_PER_SECOND = (200.0, 100.0, 50.0, 20.0)  # the first one that the machine keeps up with
BLOCK_SECONDS, BLOCKS = 4.0, 3
CALLERS, CALLS = 16, 400  # in closed loop: the most that either side carries here
BEHIND_SECONDS = 0.5  # after a block's last call was due: more, and calls only queue up
PROMPT_TOKENS = 8
# A reservation is a number: a machine that falls behind is to show latencies, not refusals.
WORKER = {"PREFILL_MEMORY_CAP_BYTES": str(1 << 40)}
P50_LIMIT_MS, P99_LIMIT_MS = 3.0, 13.0


def run(
    rates_per_second: tuple[float, ...] = RATES_PER_SECOND,
    block_seconds: float = BLOCK_SECONDS,
    blocks: int = BLOCKS,
) -> dict[str, object]:
    """Overheads at the first of the rates that this machine keeps up with, and which that is."""
    import uvloop

    from prefill_stack.load.open_loop import neighbours

    plan = BenchPlan(rates_per_second, block_seconds, blocks)
    bare, (rate, found, too_much) = uvloop.run(_all(plan))
    return {
        **found,
        **bare,
        "requests_per_second": rate,
        "requests_per_second_wanted": rates_per_second[0],
        "requests_per_second_too_many_here": too_much,
        "overhead_p50_limit_ms": P50_LIMIT_MS,
        "overhead_p99_limit_ms": P99_LIMIT_MS,
        "load_generator": "one Python process on the same machine, open loop, Poisson arrivals",
        **neighbours(),
    }


@dataclass(frozen=True)
class BenchPlan:
    """At which rates, the highest first, and so many blocks of so many seconds a side."""

    rates_per_second: tuple[float, ...]
    block_seconds: float
    blocks: int


async def _all(
    plan: BenchPlan,
) -> tuple[dict[str, object], tuple[float, dict[str, object], dict[str, str]]]:
    """In one loop, because gRPC's answers to an ended one have no home."""
    return await _bare(plan), await _at_first_rate(plan)


async def _bare(plan: BenchPlan) -> dict[str, object]:
    """What gRPC alone makes of an exchange at the first of the rates, call by call and over streams
    that stay open."""
    import grpc

    from prefill_stack.load.bare_calls import GATEWAY, WORKER, BareThroughGateway, BareWithWorker
    from prefill_stack.load.bare_processes import bare_processes
    from prefill_stack.load.bare_streams import BareStream, StreamThroughGateway, StreamWithWorker

    with (
        tempfile.TemporaryDirectory(prefix="prefill-bench-") as name,
        bare_processes(Path(name)) as (worker, gateway),
    ):
        async with (
            grpc.aio.insecure_channel(gateway.address("grpc")) as through,
            grpc.aio.insecure_channel(worker.address("grpc")) as direct,
        ):
            calls = await _bare_sides(plan, BareThroughGateway(through), BareWithWorker(direct))
            streams = BareStream(through, GATEWAY), BareStream(direct, WORKER)
            kept = await _bare_sides(
                plan, StreamThroughGateway(streams[0]), StreamWithWorker(streams[1])
            )
            for stream in streams:
                await stream.close()
    found = {"bare_calls": calls, "bare_streams": kept}
    return {f"{way}_{what}": ms for way, all_ in found.items() for what, ms in all_.items()}


async def _bare_sides(plan: BenchPlan, gateway: "Call", direct: "Call") -> dict[str, object]:
    from prefill_stack.load.open_loop import Offered, open_loop

    latencies: dict[str, list[float]] = {"gateway": [], "direct": []}
    sides = {"gateway": gateway, "direct": direct}
    for side in sides.values():
        await open_loop(Offered(5.0, 2.0), side)
    for block in range(plan.blocks):
        for name, side in sides.items():
            offered = Offered(plan.rates_per_second[0], plan.block_seconds, seed=block)
            latencies[name] += (await open_loop(offered, side)).latencies
    return _overheads(latencies)


async def _at_first_rate(plan: BenchPlan) -> tuple[float, dict[str, object], dict[str, str]]:
    """The first rate that is carried, what was found at it, and what refused those before it. Each
    has a cloud of its own."""
    import grpc

    from prefill_stack import shipped
    from prefill_stack.local_cloud import CloudPlan, start_cloud
    from prefill_stack.supervisor import Supervisor

    checkpoints = {shipped.MQAR: shipped.checkpoint(shipped.MQAR)}
    found: dict[str, object] = {}
    too_much: dict[str, str] = {}
    for rate in plan.rates_per_second:
        with tempfile.TemporaryDirectory(prefix="prefill-bench-") as name, Supervisor() as children:
            cloud_plan = CloudPlan(Path(name), checkpoints, worker_settings=WORKER)
            cloud = start_cloud(children, cloud_plan)  # nothing else is to run meanwhile
            try:
                found = await _both_sides(cloud, rate, plan)
            except* (grpc.aio.AioRpcError, FellBehind) as errors:  # more than somebody takes
                too_much[f"{rate:g}"] = why_too_much(errors.exceptions[0])
        if found:
            break
    return rate, found, too_much


class FellBehind(Exception):
    """A side that queues up: its latencies are the block's length and nothing else."""


def check_pace(side: str, offered: "Offered", measured: "Measured") -> None:
    """Raises `FellBehind` when the calls of a block ended long after the last of them was due."""
    behind = measured.took_seconds - offered.moments()[-1]
    if behind > BEHIND_SECONDS:
        calls = len(measured.latencies)
        raise FellBehind(f"{side}: the last of {calls} calls ended {behind:.1f} s after it was due")


def why_too_much(error: Exception) -> str:
    """What a rate was refused with; any other fault than too much work ends the bench."""
    import grpc
    from prefill_data.refusals import parse_refusal
    from prefill_wire.status import StatusCode

    if isinstance(error, ExceptionGroup):
        return why_too_much(error.exceptions[0])
    if isinstance(error, FellBehind):
        return str(error)
    if not isinstance(error, grpc.aio.AioRpcError):
        raise error
    refusal = parse_refusal(error, "no answer")
    if refusal.code not in (StatusCode.CAPACITY_EXHAUSTED, StatusCode.WORKER_LOST):
        raise error
    return f"{refusal.code}: {refusal.message}"


async def _both_sides(cloud: "LocalCloud", rate: float, plan: BenchPlan) -> dict[str, object]:
    from prefill_stack.load.open_loop import Offered, closed_loop, cpu_seconds, open_loop

    pids = {
        "gateway": cloud.gateway.process.pid,
        "worker": cloud.workers[0].process.pid,
        "load": os.getpid(),
    }
    computed: dict[tuple[str, str], float] = defaultdict(float)  # by side and process, seconds
    latencies: dict[str, list[float]] = {"gateway": [], "direct": []}
    async with _sides(cloud) as sides:
        for side in sides.values():  # channels, threads and caches are warm before it counts
            await open_loop(Offered(5.0, 2.0), side)
        gc.collect()
        gc.freeze()
        for block in range(plan.blocks):
            for name, side in sides.items():
                before = {process: cpu_seconds(pid) for process, pid in pids.items()}
                offered = Offered(rate, plan.block_seconds, seed=block)
                measured = await open_loop(offered, side)
                if rate != plan.rates_per_second[-1]:  # the last is told of, whatever it is
                    check_pace(name, offered, measured)
                latencies[name] += measured.latencies
                for process, pid in pids.items():
                    computed[name, process] += cpu_seconds(pid) - before[process]
        most = {
            f"{name}_most_per_second": round(
                (await closed_loop(CALLERS, CALLS, side)).per_second, 1
            )
            for name, side in sides.items()
        }
        gc.unfreeze()
    return {**_overheads(latencies), **most, **_cpu(latencies, computed)}


def _overheads(latencies: Mapping[str, list[float]]) -> dict[str, object]:
    from prefill_stack.load.open_loop import Measured

    through, direct = (Measured(latencies[name], 1.0) for name in ("gateway", "direct"))
    result: dict[str, object] = {}
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        pair = through.quantile_ms(share), direct.quantile_ms(share)
        result[f"overhead_{label}_ms"] = round(pair[0] - pair[1], 3)
        result[f"gateway_{label}_ms"], result[f"direct_{label}_ms"] = pair
    return result


def _cpu(
    latencies: Mapping[str, list[float]], computed: Mapping[tuple[str, str], float]
) -> dict[str, object]:
    """What each process computes for an exchange through the gateway, and for a direct one."""
    spent = {
        (side, process): round(1000 * seconds / len(latencies[side]), 3)
        for (side, process), seconds in computed.items()
    }
    through = {f"{process}_cpu_ms_an_exchange": spent["gateway", process]
               for process in ("gateway", "worker", "load")}  # fmt: skip
    direct = {f"direct_{process}_cpu_ms_an_exchange": spent["direct", process]
              for process in ("worker", "load")}  # fmt: skip
    return {**through, **direct}


@asynccontextmanager
async def _sides(cloud: "LocalCloud") -> AsyncIterator[Mapping[str, "Call"]]:
    """The same exchange through the gateway and with its worker."""
    import grpc
    import numpy as np
    from prefill_engine.identity import identify
    from prefill_wire.identity import ModelIdentity

    from prefill_stack.load.exchange import Prepared, ThroughGateway, WithWorker
    from prefill_stack.local_cloud import FLEET_TOKEN_FILE

    ((name, folder),) = cloud.plan.checkpoints.items()
    found = identify(folder)
    identity = ModelIdentity(name, found.fingerprint, found.tokenizer_fingerprint, "fp32")
    prepared = Prepared(identity, np.arange(PROMPT_TOKENS, dtype=np.uint32))
    token = (cloud.plan.directory / FLEET_TOKEN_FILE).read_bytes()
    worker = cloud.workers[0]
    async with (
        grpc.aio.insecure_channel(cloud.endpoint) as gateway,
        grpc.aio.insecure_channel(worker.address("grpc")) as direct,
    ):
        yield {
            "gateway": ThroughGateway(prepared, gateway, cloud.keys[0].secret),
            "direct": WithWorker(prepared, direct, token, worker.address("data")),
        }
