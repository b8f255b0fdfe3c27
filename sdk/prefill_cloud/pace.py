"""How fast this machine prefills, measured; it decides when a fallback has to start."""

from __future__ import annotations

_WEIGHT_OF_THE_LATEST = 0.3
_MARGIN = 1.2  # attention grows with length: the next step is slower than the last one


class Pace:
    """A moving average of tokens a second, over the steps of local prefills."""

    def __init__(self) -> None:
        self._tokens_per_second: float | None = None

    def measured(self, tokens: int, seconds: float) -> None:
        """One step took so long."""
        if tokens <= 0 or seconds <= 0.0:
            return
        latest, before = tokens / seconds, self._tokens_per_second
        self._tokens_per_second = (
            latest if before is None else before + (latest - before) * _WEIGHT_OF_THE_LATEST
        )

    def reserve_seconds(self, tokens: int, left_seconds: float) -> float:
        """What to keep of the time left for prefilling `tokens` here, should the cloud fail.

        Half of it while nothing was measured; nothing when local prefill could not make it
        anyway: then the cloud is the only chance, and gets all the time there is.
        """
        if self._tokens_per_second is None:
            return left_seconds / 2.0
        predicted = _MARGIN * tokens / self._tokens_per_second
        return predicted if predicted < left_seconds else 0.0
