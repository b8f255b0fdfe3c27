"""The asynchronous client: a verified state for a prompt, the models served, and sessions."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from prefill_wire.digests import DIGEST_BYTES
from prefill_wire.identity import ModelIdentity
from prefill_wire.status import StatusCode
from prefill_wire.tensors import StateSchema

from prefill_cloud.attempt import Attempt, Trust
from prefill_cloud.channels import Channels
from prefill_cloud.clock import Clock, Deadline, check_deadline
from prefill_cloud.decode.engine import DecodeEngine
from prefill_cloud.download import PrefillProgress
from prefill_cloud.endpoint import Endpoint, tls_context
from prefill_cloud.errors import error_for
from prefill_cloud.exchange import Exchange
from prefill_cloud.hints import ThresholdHint
from prefill_cloud.keyring import Keyring
from prefill_cloud.link import LinkEstimate
from prefill_cloud.models import ServedModel, served_models
from prefill_cloud.options import Fallback
from prefill_cloud.quality import DEFAULT_POLICY, CodecPolicy, check_policy
from prefill_cloud.request import Buffers, PrefillRequest, names, token_array
from prefill_cloud.session import AsyncSession
from prefill_cloud.state import PrefilledState
from prefill_cloud.tuning import Tuning

if TYPE_CHECKING:
    from prefill_engine.engine import StepEngine

MAX_CLIENT_CONNECTIONS = 4
_OPENING_THREADS = 2


class AsyncClient:
    """A customer's way to one Prefill Cloud; `async with` it, from one event loop.

    `endpoint`: host:port of a gateway, in plain text only on this machine. `control_public_key`:
    the control plane's Ed25519 key (32 bytes), which vouches for workers. `tls_roots`: PEM bytes,
    the system's roots when absent. `connections`: 1 to 4 data connections a prefill.
    `fallback`: what sessions do when the cloud cannot help; `prefill` itself always raises.
    `codec_policy`: how states travel unless a call says otherwise. `exact`; `near-lossless`, the
    default of `prefill`; `compact`; `auto`, whatever is here soonest and near-lossless. Sessions
    without one ask `exact` for answers that must be repeatable: greedy ones, and seeded ones.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str,
        *,
        control_public_key: bytes,
        tls_roots: bytes | None = None,
        connections: int = MAX_CLIENT_CONNECTIONS,
        fallback: Fallback = "availability",
        codec_policy: CodecPolicy | None = None,
        tuning: Tuning | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check_options(api_key, control_public_key, connections, fallback)
        check_policy(codec_policy)
        self.clock, self.fallback = clock or Clock(), fallback
        self.codec_policy = codec_policy
        self._tuning, self._connections = tuning or Tuning(), connections
        self._keyring = Keyring(self.clock.random)
        self._threads = ThreadPoolExecutor(_OPENING_THREADS, thread_name_prefix="prefill-open")
        self._channels = Channels(tls_roots)
        self._sessions: list[AsyncSession] = []
        self.hint, self._link = ThresholdHint(self.clock), LinkEstimate()

        @cache
        def tls() -> ssl.SSLContext:
            return tls_context(tls_roots)

        if tls_roots is not None:
            tls()  # roots that cannot be read are refused here, not at the first prompt
        self._trust = Trust(control_public_key=control_public_key, tls=tls)
        self._exchange = Exchange(
            self._channels,
            Endpoint.parse(endpoint),
            api_key,
            self.hint,
            clock=self.clock,
            tuning=self._tuning,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection and session; twice is fine."""
        while self._sessions:
            self._sessions.pop().close()
        await self._channels.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def models(self, *, deadline_seconds: float = 10.0) -> list[ServedModel]:
        """The models that this key may use."""
        deadline = Deadline.after(self.clock, deadline_seconds)
        return served_models(await self._exchange.models(deadline))

    def session(self, engine: DecodeEngine | StepEngine, *, progress: bool = True) -> AsyncSession:
        """Generations on an engine; `progress` shows a bar for long prefills on a terminal."""
        made = AsyncSession(self, engine, progress=progress)
        self._sessions.append(made)
        return made

    async def prefill(  # noqa: PLR0913 (the public contract; all but three are named options)
        self,
        tokens: Sequence[int] | np.ndarray,
        identity: ModelIdentity,
        schema: StateSchema,
        *,
        deadline_seconds: float,
        buffers: Buffers | None = None,
        datacenters: Sequence[str] = (),
        residency: Sequence[str] = (),
        max_price_micros: int = 0,
        idempotency_key: str | None = None,
        codec_policy: CodecPolicy | None = None,
        on_progress: Callable[[PrefillProgress], None] | None = None,
        local_prefix_tokens: int = 0,
    ) -> PrefilledState:
        """The verified state of `tokens[:-1]`, whole, in `buffers` if given.

        Never prefills locally: raises the exception that the status table names (`UseLocalError`
        when the cloud advises so), with the buffers zeroed. `datacenters` is an ordered wish,
        `residency` a hard rule; `max_price_micros` 0 means no cap. The same `idempotency_key` and
        request give the same attempt. `codec_policy`: the client's, else `near-lossless`.
        """
        check_deadline(deadline_seconds)
        deadline = Deadline.after(self.clock, deadline_seconds)
        key, one_time_key = self._keyring.pair(idempotency_key)
        request = PrefillRequest(
            tokens=token_array(tokens),
            identity=identity,
            schema=schema,
            datacenters=names("datacenters", datacenters),
            residency=names("residency", residency),
            max_price_micros=max_price_micros,
            local_prefix_tokens=local_prefix_tokens,
            idempotency_key=key,
            codec_policy=codec_policy or self.codec_policy or DEFAULT_POLICY,
            buffers=buffers,
        )
        attempt = Attempt(
            exchange=self._exchange,
            request=request,
            trust=self._trust,
            one_time_key=one_time_key,
            deadline=deadline,
            connections=self._connections,
            threads=self._threads,
            link=self._link,
            tuning=self._tuning,
            clock=self.clock,
            on_progress=on_progress,
        )
        return await attempt.run()


def _check_options(
    api_key: str, control_public_key: bytes, connections: int, fallback: str
) -> None:
    wrong = ""
    if not api_key.isascii() or not api_key.isprintable() or not api_key:
        wrong = "api_key is empty or has characters that no key has."
    elif len(control_public_key) != DIGEST_BYTES:
        wrong = f"control_public_key has {len(control_public_key)} bytes, not 32."
    elif not 1 <= connections <= MAX_CLIENT_CONNECTIONS:
        wrong = f"connections is {connections}, not 1 to {MAX_CLIENT_CONNECTIONS}."
    elif fallback not in ("availability", "never"):
        wrong = f"fallback is {fallback[:40]!r}, not 'availability' or 'never'."
    if wrong:
        raise error_for(StatusCode.MALFORMED_REQUEST, wrong)
