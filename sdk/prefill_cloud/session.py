"""A session: prompts in, tokens out, prefilled wherever that is best."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import numpy as np
from prefill_wire.status import StatusCode

from prefill_cloud.clock import Clock
from prefill_cloud.cloud import Cloud
from prefill_cloud.decode.engine import DecodeEngine
from prefill_cloud.decode.local import LocalEngine
from prefill_cloud.decode.text import StopStrings, TextStream
from prefill_cloud.decode.thread import EngineThread
from prefill_cloud.errors import error_for
from prefill_cloud.generation import (
    FinishReason,
    GeneratedPiece,
    Generation,
    Options,
    Prompt,
    Wish,
)
from prefill_cloud.placement import Placement, Prefilled
from prefill_cloud.progress import prefill_bar
from prefill_cloud.request import token_array

if TYPE_CHECKING:
    from prefill_engine.engine import StepEngine


class AsyncSession:
    """One engine's generations through one client; `client.session(engine)` makes it.

    Generations may run at the same time: the engine takes their steps in turn.
    """

    def __init__(
        self,
        client: Cloud | None,
        engine: DecodeEngine | StepEngine,
        *,
        progress: bool = True,
    ) -> None:
        """Without a client (None) every prompt is prefilled here, by the same code."""
        self._own: LocalEngine | None = None
        if isinstance(engine, DecodeEngine):
            self._engine = engine
        else:
            self._engine = self._own = LocalEngine(engine)
        self._clock = Clock() if client is None else client.clock
        self._progress, self._thread = progress, EngineThread()
        self._placement = Placement(client, self._engine, self._thread, self._clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what this session made; the client does it too."""
        self._thread.close()
        if self._own is not None:
            self._own.free()

    async def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Generation:
        """The whole answer to a text, a conversation or token ids; `Wish` has the options."""
        async with self.stream(prompt, **options) as stream:
            async for _ in stream:
                pass
        return stream.result

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> GenerationStream:
        """The answer piece by piece: `async for`, then `.result`; leaving early frees it."""
        wish = Wish(**options)
        return GenerationStream(self._run(self._tokens(prompt, wish), wish))

    def _tokens(self, prompt: Prompt, wish: Wish) -> np.ndarray:
        """The prompt's token ids, checked against the engine's limit."""
        vocabulary = self._engine.vocabulary
        conversation = not isinstance(prompt, str | np.ndarray) and any(
            isinstance(each, Mapping) for each in prompt[:1]
        )
        if vocabulary is None and (isinstance(prompt, str) or conversation or wish.stop_strings):
            message = "this engine has no tokenizer: text, messages and stop strings need one."
            raise error_for(StatusCode.MALFORMED_REQUEST, message)
        if conversation and vocabulary is not None:
            prompt = vocabulary.render(list(prompt))
        if isinstance(prompt, str) and vocabulary is not None:
            prompt = vocabulary.encode(prompt)
        tokens = token_array(prompt, least=1)  # type: ignore[arg-type]
        limit = self._engine.max_tokens
        if len(tokens) + wish.max_new_tokens > limit:
            message = f"{len(tokens)} prompt tokens and {wish.max_new_tokens} new ones are more "
            message += f"than the engine's {limit}."
            raise error_for(StatusCode.PROMPT_TOO_LONG, message)
        return tokens

    async def _run(
        self, tokens: np.ndarray, wish: Wish
    ) -> AsyncGenerator[GeneratedPiece | Generation, None]:
        """Pieces, then the result as the last item."""
        clock = self._clock
        called = clock.monotonic()
        with prefill_bar(len(tokens), enabled=self._progress) as on_progress:
            ready = await self._placement.prefill(tokens, wish, on_progress)
        loaded = clock.monotonic()
        made: list[int] = []
        first, answer = loaded, _Answer(self._engine, wish)
        try:
            steps = self._engine.decode(ready.handle, wish.sampling)
            while len(made) < wish.max_new_tokens and not answer.stopped:
                token = await self._thread.call(lambda: next(steps, None))
                if token is None:
                    break
                first = first if made else clock.monotonic()
                made.append(token)
                yield GeneratedPiece(token, answer.push(token))
            if rest := answer.flush():
                yield GeneratedPiece(None, rest)
        finally:
            await self._thread.call(lambda: self._engine.close(ready.handle))
        times = replace(ready.timeline, first_token=first - loaded, total=first - called)
        yield _generation(replace(ready, timeline=times), made, answer, len(tokens))


class _Answer:
    """The text of one answer, and whether it is over."""

    def __init__(self, engine: DecodeEngine, wish: Wish) -> None:
        vocabulary = engine.vocabulary
        self._text = None if vocabulary is None else TextStream(vocabulary)
        self._strings = StopStrings(wish.stop_strings)
        ends = frozenset[int]() if vocabulary is None else vocabulary.end_tokens
        self._ends = ends | wish.stop_tokens
        self._ended = False
        self.text = ""

    @property
    def finish_reason(self) -> FinishReason:
        """Why it is over."""
        return "stop" if self.stopped else "length"

    @property
    def stopped(self) -> bool:
        """A stop token or a stop string came."""
        return self._ended or self._strings.stopped

    def push(self, token: int) -> str:
        """The text that may be shown now."""
        if token in self._ends:
            self._ended = True
            return ""
        return "" if self._text is None else self._show(self._strings.push(self._text.push(token)))

    def flush(self) -> str:
        """The rest of the text."""
        if self._text is None or self._strings.stopped:
            return ""
        return self._show(self._strings.push(self._text.flush()) + self._strings.flush())

    def _show(self, text: str) -> str:
        self.text += text
        return text


def _generation(
    ready: Prefilled, made: list[int], answer: _Answer, prompt_tokens: int
) -> Generation:
    state = ready.state
    return Generation(
        tokens=made,
        text=answer.text,
        finish_reason=answer.finish_reason,
        route=ready.route,
        reason=ready.reason,
        fallback_code=ready.fallback_code,
        request_id=ready.request_id,
        prompt_tokens=prompt_tokens,
        timeline=ready.timeline,
        codec_policy="" if state is None else state.codec_policy,
        bytes_raw=0 if state is None else state.bytes_raw,
        bytes_sent=0 if state is None else state.bytes_sent,
        amount_micros=0 if state is None else state.amount_micros,
        receipt=None if state is None else state.receipt,
    )


class GenerationStream:
    """Pieces as they come; after the last one `result` is there. Leave it with `async with`."""

    def __init__(self, run: AsyncGenerator[GeneratedPiece | Generation, None]) -> None:
        self._run = run
        self._result: Generation | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GeneratedPiece:
        item = await anext(self._run)
        if isinstance(item, Generation):
            self._result = item
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Stop decoding and free the sequence; twice is fine."""
        await self._run.aclose()

    @property
    def result(self) -> Generation:
        """The whole answer; `CancelledRequestError` while the stream is not at its end."""
        if self._result is None:
            message = "the stream was left before its end: there is no result."
            raise error_for(StatusCode.CANCELLED, message)
        return self._result
