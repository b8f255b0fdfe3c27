"""The client for code without an event loop: calls run on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import numpy as np
from prefill_wire.identity import ModelIdentity
from prefill_wire.status import StatusCode
from prefill_wire.tensors import StateSchema

from prefill_cloud.client import AsyncClient
from prefill_cloud.decode.engine import DecodeEngine
from prefill_cloud.errors import error_for
from prefill_cloud.generation import GeneratedPiece, Generation, Options, Prompt
from prefill_cloud.models import ServedModel
from prefill_cloud.options import ClientOptions, PrefillOptions
from prefill_cloud.session import AsyncSession, GenerationStream
from prefill_cloud.state import PrefilledState

if TYPE_CHECKING:
    from prefill_engine.engine import StepEngine

_Result = TypeVar("_Result")


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="prefill-cloud", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """The coroutine's result. Ctrl-C cancels it and waits until it has cleaned up.

        Raises `InvalidRequestError` where it would wait for ever: when closed, or within a call.
        """
        wrong = "the client is closed." if self.closed else ""
        if threading.current_thread() is self._thread:
            wrong = "a callback of this client calls it again; do so after the call."
        if wrong:
            coroutine.close()
            raise error_for(StatusCode.MALFORMED_REQUEST, wrong)
        outcome: Future[_Result] = Future()
        tasks: list[asyncio.Task[_Result]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda task: _pass_on(task, outcome))

        self._loop.call_soon_threadsafe(begin)
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():  # Ctrl-C in this thread
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                outcome.exception()
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing can run here any more."""
        return self._loop.is_closed()

    def close(self) -> None:
        """End what was left half-way, stop and close the loop."""
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _pass_on(task: asyncio.Task[_Result], outcome: Future[_Result]) -> None:
    if task.cancelled():
        outcome.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class Client:
    """`AsyncClient` without `await`: the same names, options and errors."""

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        control_public_key: bytes,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._client = AsyncClient(
            endpoint, api_key, control_public_key=control_public_key, **options
        )
        self._thread = LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and the thread; twice is fine."""
        if self._thread.closed:
            return
        self._thread.run(self._client.close())
        self._thread.close()

    def models(self, *, deadline_seconds: float = 10.0) -> list[ServedModel]:
        """The models that this key may use."""
        return self._thread.run(self._client.models(deadline_seconds=deadline_seconds))

    def session(self, engine: DecodeEngine | StepEngine, *, progress: bool = True) -> Session:
        """Generations on an engine; `progress` shows a bar for long prefills on a terminal."""
        return Session(self._client.session(engine, progress=progress), self._thread)

    def prefill(
        self,
        tokens: Sequence[int] | np.ndarray,
        identity: ModelIdentity,
        schema: StateSchema,
        *,
        deadline_seconds: float,
        **options: Unpack[PrefillOptions],
    ) -> PrefilledState:
        """The verified state of `tokens[:-1]`; `on_progress` is called in the loop's thread."""
        asked = self._client.prefill(
            tokens, identity, schema, deadline_seconds=deadline_seconds, **options
        )
        return self._thread.run(asked)


class Session:
    """`AsyncSession` without `await`."""

    def __init__(self, session: AsyncSession, thread: LoopThread) -> None:
        self._session, self._thread = session, thread

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Generation:
        """The whole answer to a text, a conversation or token ids; `Wish` has the options."""
        return self._thread.run(self._session.generate(prompt, **options))

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> BlockingStream:
        """The answer piece by piece: `for`, then `.result`; leave it early with `with`."""
        return BlockingStream(self._session.stream(prompt, **options), self._thread)


class BlockingStream:
    """`GenerationStream` without `await`."""

    def __init__(self, stream: GenerationStream, thread: LoopThread) -> None:
        self._stream, self._thread = stream, thread

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[GeneratedPiece]:
        return self

    def __next__(self) -> GeneratedPiece:
        async def following() -> GeneratedPiece | None:
            return await anext(self._stream, None)

        piece = self._thread.run(following())
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Stop decoding and free the sequence; twice is fine."""
        self._thread.run(self._stream.aclose())

    @property
    def result(self) -> Generation:
        """The whole answer, once the stream is at its end."""
        return self._stream.result
