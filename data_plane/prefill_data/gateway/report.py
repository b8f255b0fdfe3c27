"""What a gateway tells about itself and about the ways to others."""

from __future__ import annotations

from collections.abc import Callable

from prefill_fleet.credential import Credential, Role
from prefill_fleet.heartbeat import Heartbeat, LinkEstimate
from prefill_fleet.names import GATEWAY_BEATS_KEY
from prefill_wire.signing import SigningKey

from prefill_data.gateway.service import GatewayParts
from prefill_data.heartbeats import Herald, installed_version
from prefill_data.settings import GatewaySettings


def gateway_heartbeat(
    settings: GatewaySettings, parts: GatewayParts, started_at_ms: int, now_ms: int
) -> Heartbeat:
    """As of now."""
    live, feed = parts.fleet.live(), parts.live.feed
    models = {model.name for link in live if link.view for model in link.view.said.models}
    links = [
        LinkEstimate(to=view.name, live=view.live, rtt_ms=view.rtt_ms)
        for view in parts.fleet.datacenters()
        if view.name != settings.datacenter
    ]
    return Heartbeat(
        name=settings.gateway_id,
        datacenter=settings.datacenter,
        version=installed_version(),
        at_ms=now_ms,
        started_at_ms=started_at_ms,
        endpoint=settings.advertised,
        live_workers=len(live),
        requests_held=len(parts.book),
        snapshot_version=feed.state.version if feed is not None else 0,
        models=tuple(sorted(models)),
        links=tuple(links),
    )


def gateway_herald(
    settings: GatewaySettings, parts: GatewayParts, now_ms: Callable[[], int]
) -> Herald | None:
    """None for a gateway that has no Redis, or no certificate to sign with."""
    link = settings.link
    if parts.live.redis is None or not (link.seed and link.certificate):
        return None
    started_at_ms = now_ms()
    credential = Credential(Role.GATEWAY, link.certificate, SigningKey.from_seed(link.seed))
    return Herald(
        parts.live.redis,
        GATEWAY_BEATS_KEY,
        credential,
        lambda: gateway_heartbeat(settings, parts, started_at_ms, now_ms()),
    )
