"""A progress bar for long prefills: on a terminal's stderr only, gone when the prefill is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from prefill_cloud.download import PrefillProgress

LONG_TOKENS = 4096  # below this a prefill is over before a bar could be read


@contextmanager
def prefill_bar(
    token_count: int, *, enabled: bool, stream: TextIO | None = None
) -> Iterator[Callable[[PrefillProgress], None] | None]:
    """What to call with every progress; None where no bar is shown."""
    target = sys.stderr if stream is None else stream
    if not enabled or token_count < LONG_TOKENS or not target.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("prefill"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens  {task.fields[received]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=target), transient=True) as bar:
        task = bar.add_task("", total=token_count - 1, received="")

        def show(progress: PrefillProgress) -> None:
            mebibytes = progress.received_bytes / 2**20
            received = f"{mebibytes:.1f} MiB" if progress.received_bytes else ""
            bar.update(task, completed=progress.done_tokens, received=received)

        yield show
