"""`python -m prefill_data.gateway`: one datacenter's gateway, told everything by `PREFILL_*`."""

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import grpc
from prefill_wire.pb import prefill_pb2

from prefill_data.calls import CallCount
from prefill_data.failpoints import Failpoints
from prefill_data.gateway.admission import OpeningRules
from prefill_data.gateway.claims import Billing, Claims, open_spool
from prefill_data.gateway.epoch import next_epoch
from prefill_data.gateway.fleet import Fleet, WorkerLink
from prefill_data.gateway.live import go_live
from prefill_data.gateway.metrics import GatewayMetrics
from prefill_data.gateway.opening import Opener
from prefill_data.gateway.report import gateway_herald
from prefill_data.gateway.requests import RequestBook
from prefill_data.gateway.service import GatewayParts, GatewayService
from prefill_data.metering.courier import HttpCourier
from prefill_data.metering.shipper import Shipper
from prefill_data.metering.spool import Spool
from prefill_data.process import (
    bind_grpc,
    now_ms,
    open_channel,
    run_process,
    say_ready,
    serve_metrics,
    until_stop,
)
from prefill_data.reading import health_check, unread
from prefill_data.settings import GatewaySettings

Clock = Callable[[], int]  # Unix milliseconds
SWEEP_SECONDS = 0.25
GRACE_SECONDS = 2.0


async def sweep(parts: GatewayParts, now: Clock) -> None:
    """End what is beyond its deadline or lease, for as long as the process runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        parts.end_overdue(now())


def make_fleet(settings: GatewaySettings, now: Clock) -> Fleet:
    """Channels to the workers and peers that the settings name."""
    links = [
        WorkerLink(endpoint, open_channel(endpoint, settings.tls), settings.fleet_token)
        for endpoint in settings.workers
    ]
    fleet = Fleet(links, settings.datacenter, settings.control_public_key, now)
    for peer in settings.peers:
        fleet.add_peer(peer, open_channel(peer.endpoint, settings.tls))
    return fleet


def make_parts(settings: GatewaySettings, stop: asyncio.Event, now: Clock) -> GatewayParts:
    """Everything the service stands on; `stop` is set when the process has to end."""
    book = RequestBook()
    # First: a folder has one owner.
    spool = open_spool(settings.spool_dir, book, now(), settings.spool_segment_bytes)
    rules = OpeningRules(
        epoch=next_epoch(settings.spool_dir, now()),
        lease_seconds=settings.lease_seconds,
        max_deadline_seconds=settings.max_deadline_seconds,
        routing_threshold_tokens=settings.routing_threshold_tokens,
        connections=settings.connections,
    )
    failpoints = Failpoints.parse(settings.failpoints)
    fleet = make_fleet(settings, now)
    metrics = GatewayMetrics()
    billing = Billing(
        failpoints=failpoints,
        metrics=metrics,
        spool_lost=stop.set,
    )
    claims = Claims(spool, book, billing, now)
    live, calls = go_live(settings, metrics.registry, now), settings.calls
    return GatewayParts(
        live=live,
        fleet=fleet,
        book=book,
        opener=Opener(
            fleet,
            book,
            rules,
            now,
            secrets.token_bytes,
            keys=live.keys,
            limiter=live.limiter,
            again=claims.opened,
        ),
        rules=rules,
        claims=claims,
        metrics=metrics,
        calls=CallCount(calls.most, calls.most_a_tenant, calls.most_unproven),
        shipper=make_shipper(settings, spool, metrics, now),
    )


def make_shipper(
    settings: GatewaySettings, spool: Spool, metrics: GatewayMetrics, now: Clock
) -> Shipper | None:
    """None when there is no control plane to ship receipts to."""
    url = settings.link.control_url
    if not url:
        return None
    courier = HttpCourier(url, settings.fleet_token, settings.tls)
    return Shipper(spool, courier, metrics.registry, now)


async def listen(settings: GatewaySettings, parts: GatewayParts, stack: AsyncExitStack) -> str:
    """The gRPC server with its health service; where it listens."""
    server = grpc.aio.server(options=settings.calls.options())
    address = bind_grpc(server, settings.listen, settings.tls)
    described = prefill_pb2.DESCRIPTOR.services_by_name["PrefillGateway"]
    server.add_generic_rpc_handlers((unread(described, GatewayService(parts)), health_check()))
    await server.start()
    stack.push_async_callback(parts.opener.settle)
    stack.push_async_callback(server.stop, GRACE_SECONDS)
    return address


def tasks_of(settings: GatewaySettings, parts: GatewayParts) -> list[Coroutine[Any, Any, None]]:
    """What a gateway does besides answering, for as long as it runs."""
    tasks = [parts.fleet.watch(), sweep(parts, now_ms), parts.live.limiter.run()]
    if parts.live.feed is not None:
        tasks.append(parts.live.feed.watch())
    if parts.live.kept is not None:
        tasks.append(parts.live.kept.run())
    if parts.shipper is not None:
        tasks.append(parts.shipper.run())
    herald = gateway_herald(settings, parts, now_ms)
    if herald is not None:
        tasks.append(herald.run())
    return tasks


async def serve(stop: asyncio.Event) -> None:
    """Look at the fleet, listen, say so, and run until told to stop."""
    settings = GatewaySettings.read(os.environ)
    parts = make_parts(settings, stop, now_ms)
    parts.metrics.watch(lambda: len(parts.fleet.live()), lambda: len(parts.book))
    await parts.fleet.look()
    if parts.live.feed is not None:
        await parts.live.feed.first_look()
    async with AsyncExitStack() as stack:
        stack.callback(parts.claims.close)
        stack.push_async_callback(parts.live.close)
        for task in tasks_of(settings, parts):
            stack.callback(until_stop(task, stop).cancel)
        address = await listen(settings, parts, stack)
        metrics_address = serve_metrics(settings.metrics_listen, parts.metrics.registry)
        say_ready({"grpc": address, "metrics": metrics_address})
        await stop.wait()


if __name__ == "__main__":
    run_process("gateway", serve)
