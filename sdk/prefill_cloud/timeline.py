"""Where the time of a prompt went, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Spans in seconds. They overlap on purpose, so they do not add up to `total`.

    `handshake`: Open and Prompt, until the key envelope. `queue`, `prefill`, `encode`: the worker's
    own times, from its signed receipt; of a local prefill `prefill` is measured here. `wire`: first
    to last chunk. `open`: opening and decoding chunks, mostly while others are on their way.
    `claim`: until the manifest came. `load`: the state into the engine. `first_token`: from a
    loaded engine to the first token. `total`: from the call to the verified state, or with a
    session to the first token.
    """

    handshake: float = 0.0
    queue: float = 0.0
    prefill: float = 0.0
    encode: float = 0.0
    wire: float = 0.0
    open: float = 0.0
    claim: float = 0.0
    load: float = 0.0
    first_token: float = 0.0
    total: float = 0.0

    def as_ms(self) -> dict[str, float]:
        """Every span by name, in milliseconds."""
        return {field.name: getattr(self, field.name) * 1000.0 for field in fields(self)}
