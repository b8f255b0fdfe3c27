"""One service process: started through `launch`, asked to stop, and reaped."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefill_stack.devca import write_private
from prefill_stack.errors import ProcessFailed
from prefill_stack.services.account import Account
from prefill_stack.supervisor import last_words

PORT_TRIES = 5
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ServicePlan:
    """What runs, as whom, where; `stop_signals` in the order in which they are tried."""

    name: str
    command: tuple[str, ...]
    account: Account
    home: Path
    log_path: Path
    stop_signals: tuple[signal.Signals, ...]


def launch_command(account: Account, number: int, command: Sequence[str]) -> list[str]:
    """The command line that becomes `command` as the account."""
    words = [str(account.uid), str(account.gid), str(number), str(os.getpid()), *command]
    return [sys.executable, "-m", "prefill_stack.services.launch", *words]


def free_port() -> int:
    """A loopback port that nobody holds now; whoever takes it first wins, so callers try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kept_secret(path: Path) -> str:
    """The secret of this file; made on first use (0600)."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_text(encoding="ascii")


class ServiceProcess:
    """A running service of one plan."""

    def __init__(self, plan: ServicePlan) -> None:
        self.plan = plan
        command = launch_command(plan.account, plan.stop_signals[0], plan.command)
        with open(plan.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs; a dead one is reaped by asking."""
        return self.process.poll() is None

    def wait_ready(self, healthy: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Block until `healthy` says so, or ProcessFailed with the log's last line."""
        deadline = time.monotonic() + seconds
        while not healthy():
            if not self.alive:
                raise self._failed(f"stopped with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                self.stop()
                raise self._failed(f"not ready after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask in the plan's ways, each for its time, then SIGKILL; returns when it is reaped."""
        for number in self.plan.stop_signals:
            if not self.alive:
                return
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)  # a stopped process hears nothing
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=STOP_SECONDS)
        if self.alive:
            self.process.kill()
            self.process.wait()

    def _failed(self, what: str) -> ProcessFailed:
        words = last_words(self.plan.log_path)
        message = f"{self.plan.name} {what}" + (f": {words}" if words else "")
        return ProcessFailed(message, f"its whole log is in {self.plan.log_path}")
