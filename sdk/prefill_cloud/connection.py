"""One data connection: a socket around the wire's state machine, with patience and nothing else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from prefill_wire.channel import ClientChannel, ClientEvent, Ready
from prefill_wire.status import StatusCode

from prefill_cloud.endpoint import Endpoint
from prefill_cloud.errors import error_for
from prefill_cloud.tuning import Tuning


class ConnectionLost(Exception):
    """The connection broke, was refused or fell silent: what it owed can be asked for again."""


@dataclass(frozen=True, slots=True, repr=False)
class DataTarget:
    """Where an attempt's chunks are, and what opens the door."""

    endpoint: Endpoint
    tls: ssl.SSLContext | None
    capability: bytes
    connection_key: bytes


class DataConnection:
    """An authenticated connection; `outstanding` is what it was asked for and still owes."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        channel: ClientChannel,
        tuning: Tuning,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._channel, self._tuning = channel, tuning
        self.ready = False

    @classmethod
    async def open(cls, target: DataTarget, tuning: Tuning) -> DataConnection:
        """Connect; the greeting and proof follow with the first events."""
        where, host = target.endpoint, target.endpoint.host
        try:
            async with asyncio.timeout(tuning.connect_seconds):
                reader, writer = await asyncio.open_connection(
                    host,
                    where.port,
                    ssl=target.tls,
                    server_hostname=host if target.tls else None,
                    limit=tuning.read_bytes,
                )
        except ssl.SSLCertVerificationError as error:  # trying again would not make it trusted
            message = f"the data channel at {where.text} is not trusted: {error.verify_message}."
            raise error_for(StatusCode.NETWORK_UNAVAILABLE, message) from None
        except OSError as error:  # refused, unreachable, timed out, TLS handshake
            raise ConnectionLost(error.strerror or str(error) or "no answer") from None
        return cls(reader, writer, ClientChannel(target.capability, target.connection_key), tuning)

    async def ask(self, wanted: Iterable[tuple[int, int]]) -> None:
        """Send one PULL for each (first, count)."""
        for first, count in wanted:
            self._channel.pull(first, count)
        await self._flush()

    async def events(self) -> list[ClientEvent]:
        """What came next; `ConnectionLost` on silence or an end, a `WireError` on nonsense."""
        try:
            async with asyncio.timeout(self._tuning.stall_seconds):
                data = await self._reader.read(self._tuning.read_bytes)
        except TimeoutError:
            silent = self._tuning.stall_seconds
            raise ConnectionLost(f"silent for {silent:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"broken: {error.strerror or error}") from None
        if not data:
            raise ConnectionLost("closed by the worker")
        events = self._channel.receive(data)
        self.ready = self.ready or any(isinstance(event, Ready) for event in events)
        await self._flush()
        return events

    async def _flush(self) -> None:
        data = self._channel.data_to_send()
        if not data:
            return
        try:
            async with asyncio.timeout(self._tuning.stall_seconds):
                self._writer.write(data)
                await self._writer.drain()
        except OSError as error:
            raise ConnectionLost(f"broken: {error or 'nothing can be sent'}") from None

    def leave(self) -> None:
        """Say GOODBYE if the socket takes it at once, and free the socket; never waits."""
        self._channel.goodbye()
        data, transport = self._channel.data_to_send(), self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() == 0:
            self._writer.write(data)
        transport.abort()
