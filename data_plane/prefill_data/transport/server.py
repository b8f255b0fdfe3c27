"""The data channel's server: sealed chunks over TCP to whoever proves the attempt's secret."""

from __future__ import annotations

import asyncio
import ssl

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.settings import Address
from prefill_data.transport.connection import HANDSHAKE_SECONDS, Connection, DataPlan
from prefill_data.transport.places import Places


class DataServer:
    """Listens; one `Connection` for each socket."""

    def __init__(self, plan: DataPlan) -> None:
        self._plan, self._places = plan, Places(plan.max_connections)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    async def start(self, address: Address, tls: ssl.SSLContext | None) -> int:
        """Listen; the port."""
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._plan, self._places, self._connections),
                address.host,
                address.port,
                ssl=tls,
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
        await asyncio.gather(*(connection.end() for connection in self._connections))
