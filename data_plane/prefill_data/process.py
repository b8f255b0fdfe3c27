"""The frame of every data-plane process: ready line, signals, one line for a typed error."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import grpc
import structlog
import uvloop
from prefill_wire.loopback import is_loopback
from prometheus_client import CollectorRegistry, start_http_server

from prefill_data.calls import CHANNEL_OPTIONS
from prefill_data.errors import DataPlaneError, SettingsError
from prefill_data.logs import configure_logging
from prefill_data.settings import Address, Tls

log = structlog.get_logger()
Serve = Callable[[asyncio.Event], Awaitable[None]]
YOUNG_OBJECTS = 10_000  # between two collections: an exchange makes hundreds, and few cycles
MOST_DESCRIPTORS = 1 << 16


def run_process(name: str, serve: Serve) -> None:
    """Run until SIGTERM or SIGINT; a typed error is one line on stderr and exit code 1."""
    configure_logging(name)
    allow_descriptors()
    try:
        uvloop.run(_until_signal(serve))
    except DataPlaneError as error:
        sys.stderr.write(f"{error.message}; {error.remedy}\n")
        sys.exit(1)


def allow_descriptors() -> None:
    """As many as this user may have: a shell's 1024 are fewer than the connections we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


async def _until_signal(serve: Serve) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(stop)


def until_stop(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> asyncio.Task[None]:
    """A task as long as the process: without it nothing would end any more, so its failure stops
    the process."""
    task = asyncio.create_task(work)

    def ended(done: asyncio.Task[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.error("a task of the process failed", task=repr(work), exc_info=error)
            stop.set()

    task.add_done_callback(ended)
    return task


def say_ready(addresses: Mapping[str, str]) -> None:
    """The line that a supervisor waits for. What was imported and loaded until then is never
    garbage: a collection that looked through it would hold up every request for that long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    sys.stdout.write(json.dumps({"ready": True, **addresses}) + "\n")
    sys.stdout.flush()


def serve_metrics(address: Address, registry: CollectorRegistry) -> str:
    """`/metrics` in a thread of its own; returns where."""
    try:
        server, _ = start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise _port_taken(address, "PREFILL_METRICS_LISTEN", str(error.strerror)) from error
    return address.text(server.server_port)


def bind_grpc(server: grpc.aio.Server, address: Address, tls: Tls | None) -> str:
    """Listen for gRPC, with TLS when there are files for it; returns where."""
    try:
        if tls is None:
            port = server.add_insecure_port(address.text())
        else:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            port = server.add_secure_port(address.text(), grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise _port_taken(address, "PREFILL_LISTEN", "address in use") from error
    return address.text(port)


def open_channel(endpoint: str, tls: Tls | None) -> grpc.aio.Channel:
    """A channel to a process of ours, held to our authority; without one only on this machine:
    the fleet's token and prompts go over it."""
    if tls is None:
        if not is_loopback(endpoint.rpartition(":")[0].strip("[]")):
            raise SettingsError(
                f"{endpoint} is not loopback, and PREFILL_TLS_AUTHORITY_FILE is not set",
                "set the three PREFILL_TLS_*_FILE variables, or name processes on 127.0.0.1",
            )
        return grpc.aio.insecure_channel(endpoint, CHANNEL_OPTIONS)
    roots = grpc.ssl_channel_credentials(tls.authority.read_bytes())
    return grpc.aio.secure_channel(endpoint, roots, CHANNEL_OPTIONS)


def _port_taken(address: Address, name: str, why: str) -> SettingsError:
    return SettingsError(
        f"cannot listen on {address.text()}: {why}", f"free the port, or choose another in {name}"
    )
