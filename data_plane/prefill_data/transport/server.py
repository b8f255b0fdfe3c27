"""The data channel's server: sealed chunks over TCP to whoever proves the attempt's secret."""

from __future__ import annotations

import asyncio
import ssl

import structlog
from prefill_wire.errors import WireError
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.settings import Address
from prefill_data.transport.connection import (
    HANDSHAKE_SECONDS,
    LINGER_SECONDS,
    READ_BYTES,
    Connection,
    DataPlan,
)
from prefill_data.transport.places import Places

log = structlog.get_logger()


class DataServer:
    """Listens; one `Connection` for each socket."""

    def __init__(self, plan: DataPlan) -> None:
        self._plan, self._places = plan, Places(plan.max_connections)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, address: Address, tls: ssl.SSLContext | None) -> int:
        """Listen; the port."""
        try:
            self._server = await asyncio.start_server(
                self._accept,
                address.host,
                address.port,
                ssl=tls,
                limit=READ_BYTES,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls is not None else None,
            )
        except OSError as error:
            raise DataPlaneError(
                StatusCode.INTERNAL,
                f"cannot listen on {address.text()}: {error.strerror}",
                "free the port, or choose another in PREFILL_DATA_LISTEN",
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        self._plan.open_connections.inc()
        try:
            await self._converse(reader, writer)
            await _part(writer)
        except asyncio.CancelledError:  # by `stop`; asyncio's streams trip over a cancelled task
            log.info("data connection ended with its server")
        finally:
            writer.transport.abort()
            self._plan.open_connections.dec()
            self._connections.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._plan, reader, writer)
        try:
            await connection.serve(self._places)
        except (OSError, asyncio.IncompleteReadError) as error:
            log.info("data connection broke", reason=type(error).__name__,
                     request_id=connection.request_id)  # fmt: skip
        except (WireError, DataPlaneError) as error:
            self._plan.refusals.labels(code=error.code).inc()
            log.info("data connection refused", code=error.code, message=error.message,
                     request_id=connection.request_id)  # fmt: skip


async def _part(writer: asyncio.StreamWriter) -> None:
    """Close; what the peer does not take within a moment is dropped, and the socket with it."""
    writer.close()
    closed = asyncio.ensure_future(writer.wait_closed())
    closed.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        await asyncio.wait({closed}, timeout=LINGER_SECONDS)
    finally:
        writer.transport.abort()
