"""What `up` keeps in its folder for others: its lock, and how the cloud is reached."""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefill_stack.devca import private_directory, write_private
from prefill_stack.errors import NotConfigured, StackError

CLOUD_FILE = "cloud.json"
LOCK_FILE = "up.lock"
START_TICKS = 19  # of the fields of /proc/PID/stat that follow the name in parentheses


class NotRunning(NotConfigured):
    """The `up` that left its access here runs no more."""


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """One `up` a folder: a second would take the first one's access file away when it ends."""
    path = private_directory(directory) / LOCK_FILE
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotConfigured(
                f"`prefill-cloud up` already runs in {directory} (pid {_pid(lock.read())})",
                "use that one, stop it, or give this one a folder of its own with --directory",
            ) from None
        lock.truncate()
        lock.write(f"{os.getpid()} {started(os.getpid())}\n")
        lock.flush()
        yield


def started(pid: int) -> str:
    """When a process began, in a form that another process of this id never has; empty: none."""
    if sys.platform == "linux":  # ticks since boot: no change of the clock moves them
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text.rpartition(")")[2].split()[START_TICKS]
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def refuse_dead(directory: Path) -> None:
    """NotRunning when the `up` of this folder was killed: what it left leads nowhere."""
    try:
        text = (directory / LOCK_FILE).read_text(encoding="utf-8")
    except OSError:
        return  # access that was brought here from elsewhere
    pid, _, began = text.strip().partition(" ")
    if pid.isdecimal() and began and started(int(pid)) != began:
        raise NotRunning(
            f"the `prefill-cloud up` of {directory} (pid {pid}) was killed and runs no more",
            "start it again with `prefill-cloud up`; its data is kept",
        )


def save_access(directory: Path, document: Mapping[str, Any]) -> Path:
    """Leave access where the other commands look for it (0600)."""
    return write_private(directory / CLOUD_FILE, json.dumps(document).encode())


def load_access(directory: Path) -> dict[str, Any]:
    """What a running `up` left; empty without any. StackError for a damaged file or a dead `up`."""
    path = directory / CLOUD_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise damaged(path)
    refuse_dead(directory)
    return document


def damaged(path: Path) -> StackError:
    """An access file that says nothing, or not enough."""
    return StackError(f"{path} is damaged", "start `prefill-cloud up` again")


def _pid(lock: str) -> str:
    return lock.split()[0] if lock.split() else "unknown"
