"""Keeps processes running: each is watched, and started again with growing patience."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from prefill_stack.errors import StackError

LOOK_SECONDS = 0.1
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
STEADY_SECONDS = 30.0  # after this long a process counts as healthy, and its failures as past


class Part(Protocol):
    """What is kept: `start` blocks until it is ready and raises `StackError` when it is not."""

    @property
    def name(self) -> str:
        """Its name in logs and in the status table."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    def start(self) -> None:
        """Start it, or start it again."""
        ...

    def stop(self) -> None:
        """Stop it and reap it."""
        ...

    def destroy(self) -> None:
        """Remove what it keeps; it is stopped."""
        ...


def delay_seconds(failures: int) -> float:
    """How long to wait before the start after so many failures in a row: doubling, bounded."""
    return float(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(failures, 16)))


@dataclass
class Kept:
    """A part and its story."""

    part: Part
    restarts: int = 0
    failures: int = 0
    started_at: float = 0.0
    last_problem: str = ""


@dataclass
class Keeper:
    """Parts in the order of their start; one thread each brings its part back when it dies.

    `say` is told what happened, in one line. Leaving stops everything, last started first.
    """

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    kept: list[Kept] = field(default_factory=list)
    _leaving: threading.Event = field(default_factory=threading.Event)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _watches: list[tuple[threading.Thread, threading.Event]] = field(default_factory=list)

    def start(self, part: Part) -> None:
        """Start a part for the first time; its failure is the caller's."""
        self.kept.append(kept := Kept(part))
        part.start()
        kept.started_at = self.clock()

    def keep(self) -> None:
        """From now on what dies is started again."""
        for kept in self.kept:
            quiet = threading.Event()
            thread = threading.Thread(target=self._hold, args=(kept, quiet), daemon=True)
            self._watches.append((thread, quiet))
            thread.start()

    def stop(self) -> None:
        """No restart any more; everything down, last started first. Twice is fine."""
        self._leaving.set()
        for _, quiet in self._watches:
            quiet.wait()
        while self.kept:
            self.kept.pop().part.stop()
        self._stopped.set()
        for thread, _ in self._watches:
            thread.join()
        self._watches.clear()

    def _hold(self, kept: Kept, quiet: threading.Event) -> None:
        """Watch, then stay: Linux tells a process that its parent died when the thread ends that
        started it, and what was started again here has to stop in its turn, not before."""
        try:
            self._watch(kept)
        finally:
            quiet.set()
        self._stopped.wait()

    def destroy(self) -> None:
        """Stop, and remove the data that services keep outside of the platform's folder."""
        parts = [kept.part for kept in self.kept]
        self.stop()
        for part in parts:
            part.destroy()

    def _watch(self, kept: Kept) -> None:
        while not self._leaving.wait(LOOK_SECONDS):
            if kept.part.alive:
                continue
            if self.clock() - kept.started_at > STEADY_SECONDS:
                kept.failures = 0
            pause = delay_seconds(kept.failures)
            self.say(f"{kept.part.name} is gone; starting it again in {pause:.1f} s")
            if self._leaving.wait(pause):
                return
            self._restart(kept)

    def _restart(self, kept: Kept) -> None:
        kept.failures += 1
        try:
            kept.part.stop()  # reaps it, and whatever of it is half there
            kept.part.start()
        except (StackError, OSError) as error:  # no memory, no process: the watch goes on
            kept.last_problem = str(error)
            self.say(f"{kept.part.name}: {error}")
            return
        kept.restarts += 1
        kept.started_at = self.clock()
        self.say(f"{kept.part.name} runs again")
