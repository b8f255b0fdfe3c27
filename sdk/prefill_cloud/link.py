"""How fast states come here, measured: what the policy `auto` chooses codecs by."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 8
_LEAST_BYTES = 1 << 16  # less than this fits into a socket's buffers and measures nothing


class LinkEstimate:
    """The best goodput of the last eight downloads.

    A download that waited for its worker measures the worker; so the best one is nearest to the
    link.
    """

    def __init__(self) -> None:
        self._goodputs: deque[float] = deque(maxlen=_REMEMBERED)

    def measured(self, size_bytes: int, seconds: float) -> None:
        """So many bytes came in so many seconds; what is too little or too quick says nothing."""
        if size_bytes >= _LEAST_BYTES and seconds > 0.0:
            self._goodputs.append(size_bytes / seconds)

    @property
    def bytes_per_second(self) -> int:
        """The estimate; 0 while there is none."""
        return round(max(self._goodputs, default=0.0))
