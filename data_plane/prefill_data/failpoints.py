"""Named places where a test kills or pauses this process: `name=kill`, `name@3=pause`."""

import os
import signal
from collections.abc import Mapping

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

NAMES = frozenset(
    {
        "worker.chunk",
        "worker.before_finish",
        "gateway.claim.before_durable",
        "gateway.claim.after_durable",
        "gateway.claim.before_release",
    }
)
_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}


class Failpoints:
    """Counts hits of each name and signals this very process at the armed one."""

    def __init__(self, armed: Mapping[str, tuple[int, signal.Signals]]) -> None:
        self._armed = dict(armed)
        self._hits: dict[str, int] = {}

    @classmethod
    def parse(cls, text: str) -> "Failpoints":
        """Reads `PREFILL_FAILPOINTS`; an unknown name or action raises DataPlaneError."""
        armed: dict[str, tuple[int, signal.Signals]] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            place, _, action = entry.partition("=")
            name, _, hit = place.partition("@")
            if name not in NAMES or action not in _SIGNALS or not (hit or "1").isdigit():
                raise DataPlaneError(
                    StatusCode.INTERNAL,
                    f"PREFILL_FAILPOINTS: {entry!r} is not name[@hit]=kill|pause",
                    f"use one of {', '.join(sorted(NAMES))}",
                )
            armed[name] = (int(hit or "1"), _SIGNALS[action])
        return cls(armed)

    def hit(self, name: str) -> None:
        """Passes the place `name`; does not return when its kill is armed for this hit."""
        self._hits[name] = self._hits.get(name, 0) + 1
        armed = self._armed.get(name)
        if armed is not None and self._hits[name] == armed[0]:
            os.kill(os.getpid(), armed[1])
