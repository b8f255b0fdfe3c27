"""How many calls a gRPC server takes at a time, and for how long it keeps a silent connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefill_wire.limits import GRPC_MAX_MESSAGE_BYTES
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_BYTES),
)
RETRY_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """`most` calls of all connections together are refused beyond, typed; those of one connection
    beyond `most_a_connection` wait at their client. A peer that is silent for `silence_seconds` is
    asked whether it is there and dropped without an answer; one that asks more often than every
    `least_ping_seconds` is dropped too."""

    most: int = 2048
    most_a_connection: int = 1024
    silence_seconds: int = 60
    answer_seconds: int = 20
    least_ping_seconds: int = 10

    def options(self) -> tuple[tuple[str, int], ...]:
        """As a gRPC server takes them."""
        return (
            *CHANNEL_OPTIONS,
            # Else two servers on one port share its connections instead of one failing.
            ("grpc.so_reuseport", 0),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.max_concurrent_streams", self.most_a_connection),
            ("grpc.keepalive_time_ms", 1000 * self.silence_seconds),
            ("grpc.keepalive_timeout_ms", 1000 * self.answer_seconds),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000 * self.least_ping_seconds),
        )


USUAL = CallLimits()


class CallCount:
    """The calls under way of one server."""

    def __init__(self, most: int) -> None:
        self._most, self.under_way = most, 0

    @contextmanager
    def one_more(self, *, always: bool = False) -> Iterator[None]:
        """For as long as a call lasts; CAPACITY_EXHAUSTED when there are too many, unless it is
        one that is `always` taken, because it is short and frees what others hold."""
        if self.under_way >= self._most and not always:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{self.under_way} calls are under way here, the limit is {self._most}",
                "try again later; operators: add a process, or raise PREFILL_MAX_CALLS",
                retry_after_ms=RETRY_MS,
            )
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
