"""What a run says of itself in metrics.json: its command and the machine it ran on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch


def run_facts(module: str) -> dict[str, str | int | float]:
    """Command line, hardware and versions of this process; `module` is the one run with -m."""
    return {
        "command": " ".join(("python -m", f"prefill_engine.training.{module}", *sys.argv[1:])),
        "hardware": f"{os.cpu_count()} cores of {_processor()}, no GPU",
        "load_average": round(os.getloadavg()[2], 1),  # of 15 minutes: was the machine shared?
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's name as Linux tells it, the architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
