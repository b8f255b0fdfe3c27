"""An engine's blocking calls in a thread of their own, without losing what they opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


class EngineThread:
    """One thread; calls run in the order they were made."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefill-engine")

    async def call(
        self, function: Callable[[], _Result], undo: Callable[[_Result], None] | None = None
    ) -> _Result:
        """The call's result. A cancelled caller waits for its end; then `undo` takes it back.

        A call is one step: it cannot be broken off, and a sequence that it opened must not leak.
        """

        def guarded() -> _Result:
            try:
                return function()
            except StopIteration as error:  # asyncio would lose it, and the caller wait for ever
                raise RuntimeError("the engine raised StopIteration") from error

        future = asyncio.get_running_loop().run_in_executor(self._executor, guarded)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            if undo is not None and future.exception() is None:
                self._executor.submit(undo, future.result())
            raise

    def close(self) -> None:
        """No call follows; one that is under way ends by itself."""
        self._executor.shutdown(wait=False)
