"""The root of this package's errors, and how any typed error becomes a line for a person."""

import errno
from dataclasses import dataclass
from typing import Any


class StackError(Exception):
    """A mistake or a missing thing that the user can do something about."""

    exit_code = 1

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ProcessFailed(StackError):
    """A child process stopped, or was not ready in time."""


class PortInUse(StackError):
    """Somebody else listens where a process of ours should."""


class NotConfigured(StackError):
    """An option or a file that the command needs is not there."""


@dataclass(frozen=True)
class Complaint:
    """What a person reads instead of a traceback."""

    message: str
    remedy: str
    exit_code: int
    code: str = ""
    request_id: str = ""

    def document(self) -> dict[str, object]:
        """What a program reads; `code` and `request_id` when a service told them."""
        told = {"code": self.code, "request_id": self.request_id}
        named = {name: value for name, value in told.items() if value}
        words = {"message": self.message, "remedy": self.remedy}
        return {**words, "exit_code": self.exit_code, **named}


def complaint(error: BaseException) -> Complaint | None:
    """The line for an error of ours (any package: they all carry a remedy); None for a bug."""
    remedy = getattr(error, "remedy", None)
    if isinstance(remedy, str):
        code = getattr(error, "exit_code", 1)
        message = getattr(error, "message", "") or str(error) or type(error).__name__
        named = (str(getattr(error, name, "")) for name in ("code", "request_id"))
        return Complaint(message, remedy, code, *named)
    if hasattr(error, "format_message"):  # wrong usage, in typer's words
        return _wrong_usage(error.format_message(), getattr(error, "ctx", None))
    if isinstance(error, ImportError):
        return Complaint(str(error), "this installation lacks a part: run `make setup`", 1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f": {error.filename}" if error.filename else ""
        return Complaint(f"the disk is full{place}", "make room, or use another --directory", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return Complaint(f"{error.strerror}: {error.filename}", "check the path and its rights", 1)
    if isinstance(error, OSError):
        return Complaint(str(error), "check the disk, the network and the address", 1)
    return None


def _wrong_usage(words: str, context: Any) -> Complaint:
    """In one line, without what the parser calls its own errors; the remedy names the command."""
    command = getattr(context, "command_path", "prefill-cloud")
    message = " ".join(words.replace("Value error, ", "").split())
    return Complaint(message, f"`{command} --help` tells more", 2)
