"""What lies in a Hugging Face checkpoint folder: its config and its safetensors files; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefill_engine.errors import CheckpointError

RESTORE = "restore the file from the release"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; `CheckpointError` names a file that holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", RESTORE) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object", RESTORE)
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; `CheckpointError` for a folder that is none of a checkpoint."""
    if not (folder / CONFIG).is_file():
        what = "is no checkpoint" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"{folder} {what}: its {CONFIG} cannot be read",
            f"name the folder with a {CONFIG} in it",
        )
    return read_json(folder / CONFIG)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by name: those of its index, or the only one."""
    index = folder / INDEX
    weights = read_json(index).get("weight_map") if index.exists() else {"": SINGLE}
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{index} has no weight_map", RESTORE)
    names = sorted({str(name) for name in weights.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r} outside the folder", RESTORE)
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing", RESTORE)
    return [folder / name for name in names]
