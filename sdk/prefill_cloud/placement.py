"""Where one prompt is prefilled: by the policy, and locally when the cloud cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from prefill_wire.status import StatusCode

from prefill_cloud.clock import Clock, Deadline
from prefill_cloud.cloud import Cloud
from prefill_cloud.decode.engine import DecodeEngine, Handle
from prefill_cloud.decode.thread import EngineThread
from prefill_cloud.download import PrefillProgress
from prefill_cloud.errors import PrefillCloudError, UseLocalError, error_for
from prefill_cloud.generation import Wish
from prefill_cloud.logs import logger
from prefill_cloud.pace import Pace
from prefill_cloud.policy import Decision, Route, Situation, decide
from prefill_cloud.quality import CodecPolicy, policy_of_answer
from prefill_cloud.state import PrefilledState
from prefill_cloud.timeline import Timeline

_LEAST_SECONDS = 1e-3  # a time that is over is the cloud's failure, not a malformed request
OnProgress = Callable[[PrefillProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """A sequence that stands at token N-1, and how it got there."""

    handle: Handle
    route: Route
    reason: str
    fallback_code: StatusCode | None = None
    request_id: str = ""
    state: PrefilledState | None = None
    timeline: Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One prompt `[N]` uint32, what the engine holds of it, and the time for it."""

    tokens: np.ndarray
    wish: Wish
    policy: CodecPolicy
    deadline: Deadline
    prefix_tokens: int
    reserve_seconds: float
    on_progress: OnProgress | None

    @property
    def state_tokens(self) -> int:
        return len(self.tokens) - 1

    @property
    def capacity_tokens(self) -> int:
        return len(self.tokens) + self.wish.max_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Why:
    """Why a prompt stays here; with a code when the cloud was asked and could not."""

    reason: str
    code: StatusCode | None = None
    request_id: str = ""


class Placement:
    """Prefills the prompts of one session."""

    def __init__(
        self, client: Cloud | None, engine: DecodeEngine, thread: EngineThread, clock: Clock
    ) -> None:
        """Without a client every prompt is prefilled here."""
        self._client, self._engine, self._thread = client, engine, thread
        self._clock, self.pace = clock, Pace()

    async def prefill(
        self, tokens: np.ndarray, wish: Wish, on_progress: OnProgress | None = None
    ) -> Prefilled:
        """The prompt's sequence, ready to decode; raises `PrefillCloudError`."""
        job, client = await self._job(tokens, wish, on_progress), self._client
        if client is None:
            return await self._locally(job, _Why(reason="this session has no cloud"))
        decision = self._decide(job, client)
        if decision.route is Route.LOCAL:
            return await self._locally(job, _Why(reason=decision.reason))
        try:
            return await self._in_the_cloud(job, client, decision.reason)
        except PrefillCloudError as error:
            if client.fallback == "never" or not error.falls_back:
                raise
            why = _why(error)
        logger(why.request_id).warning("fell_back", reason=why.reason)
        return await self._locally(job, why)

    async def _job(self, tokens: np.ndarray, wish: Wish, on_progress: OnProgress | None) -> _Job:
        deadline = Deadline.after(self._clock, wish.deadline_seconds)
        capacity = len(tokens) + wish.max_new_tokens
        policy = self._policy(wish)
        prefix = await self._thread.call(
            lambda: self._engine.prefix(tokens, capacity, exact=policy == "exact")
        )
        return _Job(
            tokens=tokens,
            wish=wish,
            policy=policy,
            deadline=deadline,
            prefix_tokens=prefix,
            reserve_seconds=self.pace.reserve_seconds(
                len(tokens) - 1 - prefix, wish.deadline_seconds
            ),
            on_progress=on_progress,
        )

    def _policy(self, wish: Wish) -> CodecPolicy:
        clients = None if self._client is None else self._client.codec_policy
        return policy_of_answer(wish.codec_policy, clients, repeatable=wish.repeatable)

    def _decide(self, job: _Job, client: Cloud) -> Decision:
        return decide(
            Situation(
                prompt_tokens=len(job.tokens),
                local_prefix_tokens=job.prefix_tokens,
                routing_threshold_tokens=client.hint.threshold_tokens(),
                deadline_seconds=job.deadline.left_seconds(),
                predicted_local_seconds=job.reserve_seconds,
            )
        )

    async def _in_the_cloud(self, job: _Job, client: Cloud, reason: str) -> Prefilled:
        wish, engine = job.wish, self._engine
        seconds = job.deadline.left_seconds() - job.reserve_seconds
        state = await client.prefill(
            job.tokens,
            engine.identity,
            engine.schema,
            deadline_seconds=max(seconds, _LEAST_SECONDS),
            datacenters=wish.datacenters,
            residency=wish.residency,
            max_price_micros=wish.max_price_micros,
            idempotency_key=wish.idempotency_key,
            codec_policy=job.policy,
            on_progress=job.on_progress,
            local_prefix_tokens=job.prefix_tokens,
        )
        started = self._clock.monotonic()
        handle = await self._thread.call(
            lambda: engine.load(state, job.tokens, job.capacity_tokens), engine.close
        )
        return Prefilled(
            handle=handle,
            route=Route.CLOUD,
            reason=reason,
            request_id=state.request_id,
            state=state,
            timeline=replace(state.timeline, load=self._clock.monotonic() - started),
        )

    async def _locally(self, job: _Job, why: _Why) -> Prefilled:
        engine, started = self._engine, self._clock.monotonic()
        exact = job.policy == "exact"
        handle = await self._thread.call(
            lambda: engine.open(job.tokens, job.capacity_tokens, exact=exact), engine.close
        )
        try:
            await self._step_to_the_end(handle, job, why)
        except BaseException:
            await self._thread.call(lambda: engine.close(handle))
            raise
        return Prefilled(
            handle=handle,
            route=Route.LOCAL,
            reason=why.reason,
            fallback_code=why.code,
            request_id=why.request_id,
            timeline=Timeline(prefill=self._clock.monotonic() - started),
        )

    async def _step_to_the_end(self, handle: Handle, job: _Job, why: _Why) -> None:
        """Steps until token N-1; each one is measured, and none begins after the deadline."""
        covered = job.prefix_tokens
        while covered < job.state_tokens:
            if job.deadline.left_seconds() <= 0.0:
                done = f"{covered} of {job.state_tokens} tokens"
                message = f"local prefill has {done} at the deadline ({why.reason})."
                raise error_for(StatusCode.DEADLINE_EXCEEDED, message, why.request_id)
            started, before = self._clock.monotonic(), covered
            covered = await self._thread.call(lambda: self._engine.prefill(handle))
            self.pace.measured(covered - before, self._clock.monotonic() - started)
            if job.on_progress is not None:
                job.on_progress(PrefillProgress(covered, job.state_tokens, 0, 0))


def _why(error: PrefillCloudError) -> _Why:
    if isinstance(error, UseLocalError):
        return _Why(reason=f"the cloud's advice: {error.reason}")
    reason = f"{error.code}: {error.message}"
    return _Why(reason=reason, code=error.code, request_id=error.request_id)
