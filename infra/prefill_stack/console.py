"""What commands print: JSON for programs on stdout, progress and tables for people."""

import json
import os
import sys
from typing import TextIO

from rich.console import Console

QUIET_LIBRARIES = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "GRPC_VERBOSITY": "ERROR",
    # Threads that wait for work spin by default: beside other processes that starves these.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def print_json(document: object, stream: TextIO | None = None) -> None:
    """One JSON object on stdout, and nothing else there; errors go to stderr."""
    stream = stream or sys.stdout
    stream.write(json.dumps(document, indent=2, sort_keys=False, default=str) + "\n")
    stream.flush()


def people(*, quiet: bool = False) -> Console:
    """The console for people: stderr when stdout belongs to a program."""
    return Console(stderr=quiet, highlight=False)


def quiet_libraries() -> None:
    """Before a library is imported: no banners, and no look-ups on any network."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)


def mebibytes(count: int) -> str:
    """A byte count for people."""
    return f"{count / 2**20:.2f} MiB"
