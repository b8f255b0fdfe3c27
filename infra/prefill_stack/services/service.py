"""What PostgreSQL and Redis have in common: a private home, a port, a process, and its life."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from prefill_stack.devca import private_directory
from prefill_stack.errors import ProcessFailed
from prefill_stack.services.account import private_home, service_account
from prefill_stack.services.process import PORT_TRIES, ServicePlan, ServiceProcess, free_port


class Service(ABC):
    """One server: `start`, `healthy`, `stop`; also a context manager.

    A noun says how it is run (`service_plan`), when it answers (`healthy`) and whether a failed
    start is worth another port (`port_was_taken`).
    """

    def __init__(self, name: str, directory: Path, port: int) -> None:
        """Makes the folders; port 0 takes a free one at the first start, and keeps it."""
        self._account = service_account()
        private_directory(directory)
        self._home = private_home(directory, self._account, name)
        self._wanted_port = self.port = port
        self._process: ServiceProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id."""
        return self._process.process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    @abstractmethod
    def service_plan(self) -> ServicePlan:
        """The process of the next start, on `port`."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether it answers now."""

    def port_was_taken(self) -> bool:
        """Whether a start that failed may succeed on another port."""
        return True

    def start(self) -> None:
        """Start and return when it answers; a free port that was taken meanwhile is tried anew."""
        for attempt in range(PORT_TRIES):
            self.port = self._wanted_port or free_port()
            self._process = ServiceProcess(self.service_plan())
            try:
                self._process.wait_ready(self.healthy)
            except ProcessFailed:
                last = self._wanted_port or attempt == PORT_TRIES - 1
                if last or not self.port_was_taken():
                    raise
            else:
                self._wanted_port = self.port  # clients have heard of it
                return

    def stop(self) -> None:
        """Stop cleanly: everything is written, nothing is left running."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def destroy(self) -> None:
        """Stop and remove the data for good."""
        self.stop()
        shutil.rmtree(self._home)
