"""Bench `up`: seconds from no data at all to a platform that is ready, and once more with data.

`cold_cpu_seconds` is what all its processes computed until they were stopped again: divided by the
cores it bounds the start from below, whatever else the machine does.
"""

import resource
import tempfile
import time
from pathlib import Path

COLD_LIMIT_SECONDS = 15.0


def run() -> dict[str, object]:
    """Both starts, with the seconds that each part took; stopping is timed beside."""
    from prefill_stack.load.open_loop import neighbours
    from prefill_stack.services.account import remove_homes

    with tempfile.TemporaryDirectory(prefix="prefill-bench-up-") as name:
        folder = Path(name)
        before = _cpu_seconds()
        try:
            cold, cold_parts, stop = _start(folder)
            cpu_seconds = _cpu_seconds() - before
            warm, _, _ = _start(folder)
        finally:
            remove_homes(folder)
    return {
        "cold_seconds": cold,
        "with_data_seconds": warm,
        "stop_seconds": stop,
        "cold_limit_seconds": COLD_LIMIT_SECONDS,
        "cold_cpu_seconds": round(cpu_seconds, 2),
        "cold_parts_seconds": cold_parts,
        **neighbours(),
    }


def _start(folder: Path) -> tuple[float, dict[str, float], float]:
    """Seconds until ready, until each part was ready, and until everything was gone again."""
    from prefill_stack.platform.keeper import Keeper, Part
    from prefill_stack.platform.plan import PlatformPlan
    from prefill_stack.platform.run import PlatformStart
    from prefill_stack.supervisor import Supervisor
    from prefill_stack.up_checks import parse_checkpoints

    started, parts = time.monotonic(), {}

    class Watched(Keeper):
        def start(self, part: Part) -> None:
            super().start(part)
            parts[part.name] = round(time.monotonic() - started, 2)

    keeper = Watched(say=lambda line: None)
    with Supervisor() as supervisor:
        try:
            PlatformStart(PlatformPlan(folder, parse_checkpoints([])), keeper, supervisor).run()
            ready = round(time.monotonic() - started, 2)
        finally:
            stopping = time.monotonic()
            keeper.stop()
    return ready, parts, round(time.monotonic() - stopping, 2)


def _cpu_seconds() -> float:
    """Computed so far by this process and by those that it has reaped."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)
