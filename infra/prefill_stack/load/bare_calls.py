"""The calls of an exchange with nothing behind them: what gRPC takes for today's pattern of calls.

No key is checked, nothing is prefilled, sealed or billed. What the two ways differ by is not the
least that a gateway adds: one with fewer calls, or streams that stay open, has another number.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

BYTES = bytes(300)  # about what the real messages have
WORKER, GATEWAY = "bare.Worker", "bare.Gateway"
Handlers = dict[str, Any]


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


def worker_calls() -> Handlers:
    """What a worker answers."""

    async def admit(_request: bytes, _context: object) -> bytes:
        return BYTES

    async def run(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield BYTES
        yield BYTES

    return {
        "Admit": grpc.unary_unary_rpc_method_handler(admit),
        "Run": grpc.unary_stream_rpc_method_handler(run),
    }


def gateway_calls(worker: BareWithWorker) -> Handlers:
    """What a gateway before it answers."""
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
