"""`python -m prefill_data.gateway`: one datacenter's gateway, told everything by `PREFILL_*`."""

import asyncio
import os
import secrets
from contextlib import AsyncExitStack

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prefill_wire.pb import prefill_pb2_grpc

from prefill_data.failpoints import Failpoints
from prefill_data.gateway.claims import Claims
from prefill_data.gateway.epoch import next_epoch
from prefill_data.gateway.fleet import Fleet, WorkerLink
from prefill_data.gateway.keys import KeyFile
from prefill_data.gateway.metrics import GatewayMetrics
from prefill_data.gateway.opening import Opener, OpeningRules
from prefill_data.gateway.requests import RequestBook
from prefill_data.gateway.service import GatewayParts, GatewayService
from prefill_data.metering.spool import SPOOL_FILE, Spool
from prefill_data.process import (
    bind_grpc,
    now_ms,
    open_channel,
    run_process,
    say_ready,
    serve_metrics,
)
from prefill_data.refusals import SERVER_OPTIONS
from prefill_data.settings import GatewaySettings

SWEEP_SECONDS = 0.25
GRACE_SECONDS = 2.0


async def sweep(book: RequestBook, claims: Claims) -> None:
    """End what is beyond its deadline or lease, for as long as the process runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        over = [(attempt.link, attempt.admitted) for attempt in book.expire(now_ms())]
        await asyncio.gather(*(link.release(a.request_id, a.attempt) for link, a in over))
        claims.expire(now_ms())


def make_fleet(settings: GatewaySettings) -> Fleet:
    """Channels to the workers and peers that the settings name."""
    links = [
        WorkerLink(endpoint, open_channel(endpoint, settings.tls), settings.fleet_token)
        for endpoint in settings.workers
    ]
    fleet = Fleet(links, settings.datacenter, settings.control_public_key, now_ms)
    for peer in settings.peers:
        fleet.add_peer(peer, open_channel(peer.endpoint, settings.tls))
    return fleet


def make_parts(settings: GatewaySettings, stop: asyncio.Event) -> GatewayParts:
    """Everything the service stands on."""
    rules = OpeningRules(
        epoch=next_epoch(settings.spool_dir, now_ms()),
        lease_seconds=settings.lease_seconds,
        max_deadline_seconds=settings.max_deadline_seconds,
        routing_threshold_tokens=settings.routing_threshold_tokens,
        price_micros_per_million_tokens=settings.price_micros_per_million_tokens,
        connections=settings.connections,
    )
    spool = Spool(settings.spool_dir / SPOOL_FILE)
    failpoints = Failpoints.parse(settings.failpoints)
    fleet, book = make_fleet(settings), RequestBook()
    return GatewayParts(
        keys=KeyFile(settings.key_file, now_ms),
        fleet=fleet,
        book=book,
        opener=Opener(fleet, book, rules, now_ms, secrets.token_bytes),
        rules=rules,
        claims=Claims(spool, settings.price_micros_per_million_tokens, failpoints, now_ms),
        metrics=GatewayMetrics(),
        spool_lost=stop.set,
    )


async def serve(stop: asyncio.Event) -> None:
    """Look at the fleet, listen, say so, and run until told to stop."""
    settings = GatewaySettings.read(os.environ)
    parts = make_parts(settings, stop)
    parts.metrics.watch(lambda: len(parts.fleet.live()), lambda: len(parts.book))
    await parts.fleet.look()
    async with AsyncExitStack() as stack:
        stack.callback(parts.claims.close)
        for task in (parts.fleet.watch(), sweep(parts.book, parts.claims)):
            stack.callback(asyncio.create_task(task).cancel)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        address = bind_grpc(server, settings.listen, settings.tls)
        prefill_pb2_grpc.add_PrefillGatewayServicer_to_server(GatewayService(parts), server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        await server.start()
        stack.push_async_callback(server.stop, GRACE_SECONDS)
        metrics_address = serve_metrics(settings.metrics_listen, parts.metrics.registry)
        say_ready({"grpc": address, "metrics": metrics_address})
        await stop.wait()


if __name__ == "__main__":
    run_process("gateway", serve)
