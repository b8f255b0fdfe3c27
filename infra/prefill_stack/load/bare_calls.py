"""The calls of an exchange with nothing behind them: what gRPC takes for today's pattern of calls.

`python -m prefill_stack.load.bare_calls` is one of its two processes, a worker or, told of a worker
by `PREFILL_WORKERS`, its gateway. No key is checked, nothing is prefilled, sealed or billed.
What the two differ by is not the least that a gateway adds: one with fewer calls to its worker, or
a stream that stays open, would have another number.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from prefill_stack.supervisor import Child, ProcessPlan, Supervisor

BYTES = bytes(300)  # about what the real messages have
WORKER, GATEWAY = "bare.Worker", "bare.Gateway"
Handlers = dict[str, Any]


@contextmanager
def bare_processes(folder: Path) -> Iterator[tuple[Child, Child]]:
    """A worker and a gateway before it, as long as the context lasts."""
    with Supervisor() as children:
        name = "prefill_stack.load.bare_calls"
        log = folder / "bare.log"
        worker = children.start(ProcessPlan("bare worker", name, {}, log))
        known = {"PREFILL_WORKERS": worker.address("grpc")}
        yield worker, children.start(ProcessPlan("bare gateway", name, known, log))


class BareThroughGateway:
    """Open, Prompt, Claim."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        names = ("Open", "Prompt", "Claim")
        self._calls: list[Any] = [channel.unary_unary(f"/{GATEWAY}/{name}") for name in names]

    async def __call__(self, _number: int) -> None:
        """One exchange."""
        for call in self._calls:
            await call(BYTES)


class BareWithWorker:
    """Admit, and Run with its two events."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admit: Any = channel.unary_unary(f"/{WORKER}/Admit")
        self._run: Any = channel.unary_stream(f"/{WORKER}/Run")

    async def __call__(self, _number: int) -> None:
        """One direct call."""
        await self.begin()
        await self.end(await self.run())

    async def begin(self) -> bytes:
        """Admit."""
        return bytes(await self._admit(BYTES))

    async def run(self) -> Any:
        """Run, its first event."""
        call = self._run(BYTES)
        await call.read()
        return call

    async def end(self, call: Any) -> None:
        """The last event."""
        await call.read()


def _worker() -> Handlers:
    async def admit(_request: bytes, _context: object) -> bytes:
        return BYTES

    async def run(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield BYTES
        yield BYTES

    return {
        "Admit": grpc.unary_unary_rpc_method_handler(admit),
        "Run": grpc.unary_stream_rpc_method_handler(run),
    }


def _gateway(worker: BareWithWorker) -> Handlers:
    ending: set[asyncio.Task[None]] = set()

    async def open_(_request: bytes, _context: object) -> bytes:
        return await worker.begin()

    async def prompt(_request: bytes, _context: object) -> bytes:
        task = asyncio.create_task(worker.end(await worker.run()))
        ending.add(task)
        task.add_done_callback(ending.discard)
        return BYTES

    async def claim(_request: bytes, _context: object) -> bytes:
        return BYTES

    named = {"Open": open_, "Prompt": prompt, "Claim": claim}
    return {name: grpc.unary_unary_rpc_method_handler(call) for name, call in named.items()}


async def _serve() -> None:
    server, known = grpc.aio.server(), os.environ.get("PREFILL_WORKERS")
    if known:
        name, handlers = GATEWAY, _gateway(BareWithWorker(grpc.aio.insecure_channel(known)))
    else:
        name, handlers = WORKER, _worker()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(json.dumps({"ready": True, "grpc": f"127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
