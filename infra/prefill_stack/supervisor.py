"""Starts our processes, waits until they say they are ready, and leaves none behind."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from prefill_stack.errors import PortInUse, ProcessFailed

READY_SECONDS = 120.0  # a cold start imports torch from a cold disk
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class ProcessPlan:
    """One process to run: `python -m module` with these settings."""

    name: str
    module: str
    environment: Mapping[str, str]
    log_path: Path


@dataclass
class Child:
    """A process that was started; `ready` holds what it said about itself."""

    plan: ProcessPlan
    process: subprocess.Popen[str]
    lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)
    ready: dict[str, object] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """host:port that the process reported under this name (grpc, data, metrics)."""
        return str(self.ready[name])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


def check_port_free(address: str, owner: str, option: str = "--listen") -> None:
    """Refuse early, by name, when a fixed port is taken (port 0 means: any free one)."""
    host, _, port = address.rpartition(":")
    if port == "0":
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise PortInUse(
                f"the {owner} cannot listen on {address}: {error.strerror}",
                f"stop the process that holds the port, or choose another with {option} HOST:PORT",
            ) from error


def last_words(log_path: Path) -> str:
    """The last line of a log, for the message about a process that failed."""
    if not log_path.exists():
        return ""
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


class Supervisor:
    """A context manager that owns child processes; leaving it stops them, last started first."""

    def __init__(self, *, ready_seconds: float = READY_SECONDS) -> None:
        self._ready_seconds = ready_seconds
        self.children: list[Child] = []

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self, plan: ProcessPlan) -> Child:
        """Start a process and return at once; `wait_ready` waits for it."""
        plan.log_path.parent.mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFILL_")}
        with open(plan.log_path, "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefill_stack.child", plan.module],
                env={**inherited, **plan.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        child = Child(plan, process)
        self.children.append(child)
        if process.stdout is not None:
            reader = threading.Thread(target=_read, args=(process.stdout, child), daemon=True)
            reader.start()
        return child

    def wait_ready(self, child: Child) -> Child:
        """Block until the child printed its JSON ready line; ProcessFailed when it does not."""
        deadline = time.monotonic() + self._ready_seconds
        while True:
            try:
                line = child.lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise self._failed(child, f"not ready after {self._ready_seconds:.0f} s") from None
            if line is None:
                code = child.process.wait()
                raise self._failed(child, f"stopped with exit code {code}")
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("ready") is True:
                    child.ready = said
                    return child

    def start(self, plan: ProcessPlan) -> Child:
        """Launch and wait until ready."""
        return self.wait_ready(self.launch(plan))

    def wait(self) -> Child:
        """Block until one child stops by itself; return it."""
        while True:
            for child in self.children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(timeout=0.2)
                    return child

    def stop(self) -> None:
        """Stop every child, last started first: SIGTERM, then SIGKILL for what ignores it."""
        while self.children:
            stop_child(self.children.pop())

    def _failed(self, child: Child, what: str) -> ProcessFailed:
        words = last_words(child.plan.log_path)
        message = f"{child.plan.name} {what}" + (f": {words}" if words else "")
        return ProcessFailed(message, f"its whole log is in {child.plan.log_path}")


def _read(stream: IO[str], child: Child) -> None:
    for line in stream:
        child.lines.put(line)
    child.lines.put(None)


def stop_child(child: Child) -> None:
    """Stop one child and reap it."""
    process = child.process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # a stopped process cannot hear SIGTERM
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
