"""How many sockets a data server holds: proven connections, and a few that have proven nothing."""

from __future__ import annotations

from collections.abc import Callable

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

UNPROVEN_PLACES = 64  # an honest peer needs one for two round trips


class Places:
    """Who only holds a socket open takes no place from anybody who has proven the secret.

    In the waiting room the newest wins: when it is full, whoever came first has to go, since an
    honest peer is through it long before so many others have come.
    """

    def __init__(self, proven: int, unproven: int = UNPROVEN_PLACES) -> None:
        self._most_proven, self._most_unproven = proven, unproven
        self._waiting: dict[Callable[[], None], None] = {}  # in the order in which they came
        self._proven = 0

    def wait(self, push_out: Callable[[], None]) -> None:
        """A place for a handshake, until `leave`; `push_out` is called when too many came later."""
        while len(self._waiting) >= self._most_unproven:
            oldest = next(iter(self._waiting))
            self.leave(oldest)
            oldest()
        self._waiting[push_out] = None

    def leave(self, push_out: Callable[[], None]) -> None:
        """Give a place in the waiting room back, if it is still held."""
        self._waiting.pop(push_out, None)

    def take(self) -> None:
        """A place for a proven connection, until `give_back`; CAPACITY_EXHAUSTED when none is."""
        if self._proven >= self._most_proven:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{self._proven} data connections are open at this worker",
            )
        self._proven += 1

    def give_back(self) -> None:
        """The place of a proven connection that has ended."""
        self._proven -= 1
