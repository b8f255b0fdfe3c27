"""One data connection: greeting, proof, then pulls in and chunks out, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import structlog
from prefill_wire.capability import check_connection_proof, verify_capability
from prefill_wire.channel import Authenticate, Pull, ServerChannel, ServerEvent
from prefill_wire.errors import CapabilityError, WireError
from prefill_wire.ids import Random
from prefill_wire.status import StatusCode
from prometheus_client import Counter, Gauge

from prefill_data.errors import DataPlaneError
from prefill_data.transport.places import Places
from prefill_data.transport.sender import WRITE_BYTES, Sender, Served

log = structlog.get_logger()
READ_BYTES = 4 << 10
HANDSHAKE_SECONDS = 10.0
LINGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """What a data server is made of; `find` raises ATTEMPT_NOT_FOUND.

    `max_connections`: those that have proven their attempt's secret; the others have few places.
    """

    worker_id: str
    capability_key: bytes = field(repr=False)
    find: Callable[[str, int], Served]
    now_ms: Callable[[], int]
    random: Random
    max_connections: int
    sent_bytes: Counter
    refusals: Counter
    open_connections: Gauge


class Connection(asyncio.Protocol):
    """What the event loop calls; once the peer has proven itself, one task sends.

    It has one timer: for the handshake, then for the last word about an attempt that has died,
    then for what its peer still has to take.
    """

    def __init__(self, plan: DataPlan, places: Places, there: set[Connection]) -> None:
        self._plan, self._places, self._there = plan, places, there
        self._channel = ServerChannel(plan.random(32))
        self._timer: asyncio.TimerHandle | None = None
        self._sender: Sender | None = None
        self._sending: asyncio.Task[None] | None = None
        self._over = False  # it lasts only until its peer has taken what was sent
        self.gone = asyncio.Event()  # with its socket
        self._request_id = ""  # once its capability was found genuine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; the peer has a while to prove itself."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES)
        self._there.add(self)
        self._plan.open_connections.inc()
        self._places.wait(self._push_out)
        self._after(HANDSHAKE_SECONDS, self._push_out)
        self._transport.write(self._channel.greeting())

    def data_received(self, data: bytes) -> None:
        """Take it in portions: whoever sends nonsense has not all of it looked at."""
        try:
            for start in range(0, len(data), READ_BYTES):
                if self._over:
                    return
                for event in self._channel.receive(data[start : start + READ_BYTES]):
                    self._handle(event)
        except (WireError, DataPlaneError) as error:
            proven = self._sender is not None
            self._refuse(error, b"" if proven else self._channel.refuse(error.code, error.message))

    def eof_received(self) -> None:
        """The peer leaves."""
        if self._sender is None:
            self._log_break("EOFError")
        self._part()

    def pause_writing(self) -> None:
        """The peer takes less than it is sent."""
        if self._sender is not None:
            self._sender.pause()

    def resume_writing(self) -> None:
        """The peer has taken most of it."""
        if self._sender is not None:
            self._sender.resume()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone, and everything is given back."""
        if not self._over:
            self._log_break(type(error).__name__)
            self._give_back()
        self._stop_timer()
        self._there.discard(self)
        self._plan.open_connections.dec()
        self.gone.set()

    async def end(self) -> None:
        """End with the server, at once."""
        log.info("data connection ended with its server")
        if not self._over:
            self._give_back()
        self._transport.abort()
        await self.gone.wait()
        if self._sending is not None:
            await asyncio.wait({self._sending})

    def _handle(self, event: ServerEvent) -> None:
        if isinstance(event, Authenticate):
            self._places.leave(self._push_out)
            self._serve(self._attempt_of(event))
        elif self._sender is None:
            raise CapabilityError("the first message has to authenticate")
        elif isinstance(event, Pull):
            self._sender.pull(event)
        else:
            self._part()

    def _attempt_of(self, shown: Authenticate) -> Served:
        plan = self._plan
        capability = verify_capability(
            plan.capability_key, shown.capability, plan.worker_id, plan.now_ms()
        )
        self._request_id = capability.request_id
        attempt = plan.find(capability.request_id, capability.attempt)
        if attempt.connection_key is None:
            raise CapabilityError("the attempt has no prompt yet")
        check_connection_proof(
            attempt.connection_key, self._channel.nonce, shown.capability, shown.proof
        )
        if attempt.connections >= capability.max_connections:
            raise DataPlaneError(
                StatusCode.TOO_MANY_CONNECTIONS,
                f"{attempt.connections} connections are open, "
                f"the capability allows {capability.max_connections}",
            )
        return attempt

    def _serve(self, attempt: Served) -> None:
        ready = self._channel.ready()
        self._places.take()
        attempt.connections += 1
        attempt.store.watch(self._store_changed)
        self._stop_timer()
        self._transport.write(ready)
        self._sender = Sender(self._channel, attempt, self._transport, self._plan.sent_bytes)
        self._sending = asyncio.create_task(self._send(self._sender))

    def _store_changed(self) -> None:
        if self._sender is not None:
            self._sender.store_changed()
            if self._sender.attempt.store.failure is not None:  # its last word is under way
                self._after(LINGER_SECONDS, self._part)

    async def _send(self, sender: Sender) -> None:
        try:
            await sender.run()
        except (WireError, DataPlaneError) as error:
            self._refuse(error, self._channel.fail(error.code, error.message))
        finally:
            self._part()

    def _push_out(self) -> None:
        log.info("data connection proved nothing in its time")
        self._part()

    def _refuse(self, error: WireError | DataPlaneError, last_words: bytes) -> None:
        self._plan.refusals.labels(code=error.code).inc()
        log.info("data connection refused", code=error.code, message=error.message,
                 request_id=self._request_id)  # fmt: skip
        self._part(last_words)

    def _part(self, last_words: bytes = b"") -> None:
        """Close; what the peer does not take within a moment is dropped, and the socket with it."""
        if self._over:
            return
        self._give_back()
        self._transport.write(last_words)
        self._after(LINGER_SECONDS, self._transport.abort)
        if self._sender is not None and last_words and self._transport.can_write_eof():
            self._close_our_side()
        else:
            self._transport.close()

    def _close_our_side(self) -> None:
        """A close would overtake what was said last if a pull is still unread."""
        try:
            self._transport.write_eof()
        except OSError as error:  # the peer has gone meanwhile
            self._log_break(type(error).__name__)
            self._transport.abort()

    def _give_back(self) -> None:
        """It is over: it holds nothing any more but its socket."""
        self._over = True
        self._places.leave(self._push_out)
        if self._sender is not None and self._sending is not None:
            self._places.give_back()
            self._sender.attempt.connections -= 1
            self._sender.attempt.store.unwatch(self._store_changed)
            self._sending.cancel()

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _log_break(self, reason: str) -> None:
        log.info("data connection broke", reason=reason, request_id=self._request_id)
