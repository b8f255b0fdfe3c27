"""`python -m prefill_data.worker`: one prefill worker, told everything by `PREFILL_*`."""

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
from prefill_engine.engine import StepEngine
from prefill_engine.errors import EngineError
from prefill_fleet.pb import fleet_pb2
from prefill_wire.signing import SigningKey

from prefill_data.calls import CallCount
from prefill_data.errors import SettingsError
from prefill_data.failpoints import Failpoints
from prefill_data.process import (
    bind_grpc,
    now_ms,
    run_process,
    say_ready,
    serve_metrics,
    until_stop,
)
from prefill_data.reading import health_check, unread
from prefill_data.redis_client import connect
from prefill_data.settings import Address, Tls, WorkerSettings
from prefill_data.transport.connection import DataPlan
from prefill_data.transport.server import DataServer
from prefill_data.worker.attempts import AttemptBook, AttemptLimits
from prefill_data.worker.backend import PrefillBackend
from prefill_data.worker.codecs import measure_speeds
from prefill_data.worker.metrics import WorkerMetrics
from prefill_data.worker.prefill import Surroundings
from prefill_data.worker.report import worker_herald
from prefill_data.worker.service import Listing, WorkerService
from prefill_data.worker.step_backend import StepBackend

SEALING_THREADS = 2
SWEEP_SECONDS = 1.0
GRACE_SECONDS = 2.0


def load_engines(settings: WorkerSettings) -> dict[str, StepEngine]:
    """Every checkpoint, or the one line that says which cannot be served and why."""
    engines = {}
    for name, folder in settings.checkpoints.items():
        try:
            engines[name] = StepEngine.load(folder, profile=settings.profile, name=name)
        except EngineError as error:
            raise SettingsError(f"model {name}: {error.message}", error.remedy) from error
    return engines


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """The data channel's TLS; None on loopback."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.certificate, tls.key)
    return context


async def sweep(book: AttemptBook, now: Callable[[], int]) -> None:
    """Free what outlived its lease, for as long as the process runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        book.expire(now())


async def serve(stop: asyncio.Event) -> None:
    """Load models, listen, say so, and run until told to stop."""
    settings = WorkerSettings.read(os.environ)
    around = Surroundings(
        worker_id=settings.worker_id,
        datacenter=settings.datacenter,
        signing=SigningKey.from_seed(settings.key_seed),
        threads=ThreadPoolExecutor(SEALING_THREADS, "sealer"),
        failpoints=Failpoints.parse(settings.failpoints),
        codec_speeds=measure_speeds(time.perf_counter),
        random=secrets.token_bytes,
        now_ms=now_ms,
        clock=time.monotonic,
    )
    backend = StepBackend(load_engines(settings), time.monotonic)
    limits = AttemptLimits(
        settings.memory_cap_bytes, settings.stream_memory_bytes, settings.spill_dir
    )
    book, metrics = AttemptBook(limits), WorkerMetrics()
    metrics.watch(lambda: book.reserved_bytes, lambda: len(book))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        parts = WorkerParts(around=around, backend=backend, book=book, metrics=metrics)
        addresses = await listen(settings, parts, stack)
        metrics_address = serve_metrics(settings.metrics_listen, metrics.registry)
        stack.callback(until_stop(sweep(book, now_ms), stop).cancel)
        if settings.redis_url:
            redis = connect(settings.redis_url)
            stack.push_async_callback(redis.aclose)
            herald = worker_herald(settings, redis, book, addresses["grpc"], now_ms)
            stack.callback(until_stop(herald.run(), stop).cancel)
        say_ready({**addresses, "metrics": metrics_address})
        await stop.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What a worker serves from."""

    around: Surroundings
    backend: PrefillBackend
    book: AttemptBook
    metrics: WorkerMetrics


async def listen(
    settings: WorkerSettings, parts: WorkerParts, stack: AsyncExitStack
) -> dict[str, str]:
    """The data server and the gRPC server with its health service; where they listen."""
    around, metrics, capability_key = parts.around, parts.metrics, secrets.token_bytes(32)
    data = DataServer(
        DataPlan(
            worker_id=settings.worker_id,
            capability_key=capability_key,
            find=parts.book.find,
            now_ms=around.now_ms,
            random=around.random,
            max_connections=settings.max_connections,
            sent_bytes=metrics.sent_bytes,
            refusals=metrics.refusals,
            open_connections=metrics.connections,
        )
    )
    data_port = await data.start(settings.data_listen, tls_context(settings.tls))
    stack.push_async_callback(data.stop)
    server = grpc.aio.server(options=settings.calls.options())
    address = bind_grpc(server, settings.listen, settings.tls)
    data_address = Address(settings.data_host, data_port).text()
    listing = Listing(
        certificate=settings.certificate,
        data_endpoint=data_address,
        data_tls=settings.tls is not None,
        memory_cap_bytes=settings.memory_cap_bytes,
        fleet_token=settings.fleet_token,
        capability_key=capability_key,
        calls=CallCount(settings.calls.most),
    )
    service = WorkerService(parts.backend, parts.book, around, listing, metrics)
    described = fleet_pb2.DESCRIPTOR.services_by_name["PrefillWorker"]
    server.add_generic_rpc_handlers((unread(described, service), health_check()))
    await server.start()
    stack.push_async_callback(server.stop, GRACE_SECONDS)
    return {"grpc": address, "data": data_address}


if __name__ == "__main__":
    run_process("worker", serve)
