"""The fencing epoch: each run of a gateway has a higher one, whatever its clock says."""

import os
from pathlib import Path

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

EPOCH_FILE = "epoch"


def next_epoch(folder: Path, now_ms: int) -> int:
    """Higher than any before it in this folder; durable before it is used."""
    path = folder / EPOCH_FILE
    text = path.read_text(encoding="ascii") if path.exists() else "0"
    if not text.isdecimal():
        raise DataPlaneError(
            StatusCode.INTERNAL,
            f"{path} does not hold a number",
            "write a number above every epoch used, such as Unix milliseconds",
        )
    epoch = max(now_ms, int(text) + 1)
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="ascii") as file:
        file.write(str(epoch))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return epoch
