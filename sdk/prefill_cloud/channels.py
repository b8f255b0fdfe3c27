"""gRPC channels to gateways: one an endpoint, TLS everywhere but on this machine."""

from __future__ import annotations

from typing import Any

import grpc
from prefill_wire.limits import GRPC_MAX_MESSAGE_BYTES
from prefill_wire.pb import prefill_pb2_grpc
from prefill_wire.status import StatusCode

from prefill_cloud.endpoint import Endpoint, system_roots_pem
from prefill_cloud.errors import error_for

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_BYTES),
    # A restarted gateway is met again within a claim's backoff, not after gRPC's own 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Two clients of one process do not share connections, nor each other's backoff.
    ("grpc.use_local_subchannel_pool", 1),
)
_LOOPBACK_OPTIONS = (("grpc.enable_http_proxy", 0),)


class Channels:
    """The channels of one client, opened at first use and closed together."""

    def __init__(self, tls_roots: bytes | None) -> None:
        self._roots = tls_roots
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._closed = False

    def stub(self, endpoint: Endpoint) -> prefill_pb2_grpc.PrefillGatewayStub:
        """A stub on the channel to this endpoint; `InvalidRequestError` once closed."""
        if self._closed:
            raise error_for(StatusCode.MALFORMED_REQUEST, "the client is closed.")
        if endpoint not in self._channels:
            self._channels[endpoint] = self._open(endpoint)
        return prefill_pb2_grpc.PrefillGatewayStub(self._channels[endpoint])

    def _open(self, endpoint: Endpoint) -> grpc.aio.Channel:
        if endpoint.loopback and self._roots is None:
            options = _OPTIONS + _LOOPBACK_OPTIONS
            return grpc.aio.insecure_channel(endpoint.text, options=options)
        roots = self._roots if self._roots is not None else system_roots_pem()
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        return grpc.aio.secure_channel(endpoint.text, credentials, options=_OPTIONS)

    async def close(self) -> None:
        """Close every channel; calls under way end."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
