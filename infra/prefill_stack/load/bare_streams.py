"""The messages of an exchange over streams that stay open, with nothing behind them.

What the two ways differ by is about the least that a gateway over gRPC adds on a machine, whatever
its calls look like: no exchange opens a call, and nothing is computed for its messages.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from itertools import chain
from typing import Any

import grpc

from prefill_stack.load.bare_calls import BYTES, Handlers

OPEN, PROMPT, CLAIM, ADMIT, RUN = range(5)
ANSWERS = (1, 1, 1, 1, 2)  # Run has two events
HEAD = struct.Struct("<BI")  # what is asked, and the number that its answers carry too
Send = Callable[[], Awaitable[None]]


class BareStream:
    """One stream; any number of questions are under way on it."""

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._call: Any = channel.stream_stream(f"/{service}/Converse")()
        self._asked: dict[int, list[asyncio.Future[None]]] = {}
        self._number = 0
        self._writing = asyncio.Lock()  # gRPC takes one message of a stream at a time
        self._reading = asyncio.create_task(self._read())

    async def ask(self, what: int) -> list[asyncio.Future[None]]:
        """Its answers to come, in order."""
        loop = asyncio.get_running_loop()
        self._number += 1
        answers: list[asyncio.Future[None]] = [loop.create_future() for _ in range(ANSWERS[what])]
        self._asked[self._number] = answers[::-1]
        message = HEAD.pack(what, self._number) + BYTES
        async with self._writing:
            await self._call.write(message)
        return answers

    async def close(self) -> None:
        """End the stream, and whatever is asked on it."""
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                _, number = HEAD.unpack_from(await self._call.read())
                self._asked[number].pop().set_result(None)
                if not self._asked[number]:
                    del self._asked[number]
        except grpc.aio.AioRpcError as ended:
            for answer in chain.from_iterable(self._asked.values()):
                answer.set_exception(ended)


class StreamThroughGateway:
    """Open, Prompt, Claim."""

    def __init__(self, stream: BareStream) -> None:
        self._stream = stream

    async def __call__(self, _number: int) -> None:
        """One exchange."""
        for what in (OPEN, PROMPT, CLAIM):
            (answer,) = await self._stream.ask(what)
            await answer


class StreamWithWorker:
    """Admit, and Run with its two events."""

    def __init__(self, stream: BareStream) -> None:
        self._stream = stream

    async def __call__(self, _number: int) -> None:
        """One direct call."""
        for what in (ADMIT, RUN):
            for answer in await self._stream.ask(what):
                await answer


def worker_stream() -> Handlers:
    """What a worker answers."""

    async def answer(what: int, send: Send) -> None:
        for _ in range(ANSWERS[what]):
            await send()

    return {"Converse": grpc.stream_stream_rpc_method_handler(_conversation(answer))}


def gateway_stream(link: Callable[[], BareStream]) -> Handlers:
    """What a gateway before it answers, over one stream to its worker."""

    async def answer(what: int, send: Send) -> None:
        below = {OPEN: ADMIT, PROMPT: RUN}.get(what)
        first, *rest = await link().ask(below) if below is not None else [_nothing()]
        await first
        await send()
        for event in rest:
            await event

    return {"Converse": grpc.stream_stream_rpc_method_handler(_conversation(answer))}


async def _nothing() -> None:
    """What a Claim waits for here."""


def _conversation(answer: Callable[[int, Send], Coroutine[Any, Any, None]]) -> Any:
    async def converse(messages: AsyncIterator[bytes], context: Any) -> None:
        writing = asyncio.Lock()
        async with asyncio.TaskGroup() as answering:
            async for message in messages:
                what, number = HEAD.unpack_from(message)

                async def send(number: int = number, what: int = what) -> None:
                    async with writing:
                        await context.write(HEAD.pack(what, number) + BYTES)

                answering.create_task(answer(what, send))

    return converse
