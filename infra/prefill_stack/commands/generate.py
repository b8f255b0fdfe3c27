"""`prefill-cloud generate`: complete a prompt against a running cloud, or locally."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prefill_stack.commands.up import DEFAULT_DIRECTORY
from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured


@dataclass(frozen=True)
class Wish:
    """What to generate and how."""

    prompt: str
    checkpoint: Path
    max_new_tokens: int
    temperature: float
    stream: bool


def read_prompt(prompt: str, file: Path | None) -> str:
    """The prompt's text: an argument, a file, or stdin for `-`."""
    if file is not None:
        return file.read_text(encoding="utf-8")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise NotConfigured("the prompt is empty", "give a PROMPT, --file FILE, or - for stdin")
    return text


def _tls(authority: Path | None) -> Any:
    return authority.read_bytes() if authority is not None else None


async def _complete(client: Any, wish: Wish, *, local: bool | None) -> Any:
    """Run one session; stream text as it comes."""
    from prefill_cloud.decode import LocalEngine

    engine = LocalEngine(wish.checkpoint)
    session = client.session(engine)
    run = session.generate(
        wish.prompt, max_new_tokens=wish.max_new_tokens, temperature=wish.temperature
    )
    return await run
