"""`python -m prefill_control`: one control-plane process, told everything by `PREFILL_*`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn
import uvloop
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis

from prefill_control.app import build_parts, create_app
from prefill_control.errors import SettingsError
from prefill_control.logs import configure_logging
from prefill_control.settings import ControlSettings
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_control.web.boundary import Parts

BACKLOG = 2048
GRACE_SECONDS = 5


def bind(settings: ControlSettings) -> socket.socket:
    """The listening socket; refused by name when somebody else has the port."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            "free the port, or choose another in PREFILL_LISTEN",
        ) from error


@asynccontextmanager
async def publishing(settings: ControlSettings, parts: Parts) -> AsyncIterator[None]:
    """Snapshots for gateways, as long as there is a Redis to publish them in."""
    if not (settings.redis_url and settings.control_seed):
        yield
        return
    async with AsyncExitStack() as stack:
        redis = Redis.from_url(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        store = SnapshotStore(redis, SigningKey.from_seed(settings.control_seed))
        publisher = Publisher(parts.database, store, parts.now)
        task = asyncio.create_task(keep_published(publisher, settings.database_url))
        stack.callback(task.cancel)
        yield


class ControlServer(uvicorn.Server):
    """uvicorn that leaves signals to us and tells when it serves."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's affair here: it would raise the signal again and end us unclean."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the line that a supervisor waits for."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        sys.stdout.write(json.dumps({"ready": True, "http": f"{host}:{port}"}) + "\n")
        sys.stdout.flush()


async def serve(settings: ControlSettings) -> None:
    """Listen, say so on stdout, run until SIGTERM or SIGINT."""
    listener = bind(settings)
    parts = build_parts(settings)
    config = uvicorn.Config(
        create_app(settings, parts),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http="httptools",
        ws="none",
    )
    server = ControlServer(config)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    gc.collect()
    gc.freeze()  # what a process begins with stays; a collection need not go through it again
    async with publishing(settings, parts):
        await server.serve(sockets=[listener])


def main() -> None:
    """A typed error is one line on stderr and exit code 1."""
    configure_logging()
    try:
        settings = ControlSettings.read(os.environ)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error.message}; {error.remedy}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
