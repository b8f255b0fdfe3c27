"""The routing threshold that the cloud last hinted, and until when it holds."""

from __future__ import annotations

from prefill_wire.pb import prefill_pb2

from prefill_cloud.clock import Clock


class ThresholdHint:
    """Remembers one hint a client; without a valid one the cloud is asked, and it answers anew.

    Asking costs one round trip: Open carries no prompt, and the cloud says UseLocal for a prompt
    that is better prefilled locally, with the hint that answers the next one here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = 0
        self._valid_until_seconds = float("-inf")

    def update(self, hint: prefill_pb2.PolicyHint) -> None:
        """Take the cloud's word; a hint without validity says nothing."""
        if hint.valid_seconds:
            self._tokens = hint.routing_threshold_tokens
            self._valid_until_seconds = self._clock.monotonic() + hint.valid_seconds

    @property
    def valid(self) -> bool:
        """Whether the last hint still holds."""
        return self._clock.monotonic() < self._valid_until_seconds

    def threshold_tokens(self) -> int:
        """The hinted threshold; 0 while none is valid, so that the cloud is asked."""
        return self._tokens if self.valid else 0
