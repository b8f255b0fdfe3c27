"""The fencing epoch: each run of a gateway has a higher one, whatever its clock says."""

import os
from pathlib import Path

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.metering.segments import sync_folder

EPOCH_FILE = "epoch"


def next_epoch(folder: Path, now_ms: int) -> int:
    """Higher than any before it in this folder; durable before it is used."""
    path = folder / EPOCH_FILE
    try:
        text = path.read_text(encoding="ascii", errors="replace") if path.exists() else "0"
        if not text.isdecimal():
            raise DataPlaneError(
                StatusCode.INTERNAL,
                f"{path} does not hold a number",
                "write a number above every epoch used, such as Unix milliseconds",
            )
        epoch = max(now_ms, int(text) + 1)
        _replace(path, str(epoch))
    except OSError as error:
        raise DataPlaneError(
            StatusCode.STORAGE_EXHAUSTED,
            f"{path} cannot be written: {error.strerror}",
            "free space in PREFILL_SPOOL_DIR, and let the gateway write there",
        ) from error
    return epoch


def _replace(path: Path, text: str) -> None:
    """The old content or the new one after a crash; durable, the name too."""
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)
