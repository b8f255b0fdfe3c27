"""`prefill-cloud generate`: complete a prompt greedily, prefilled by a running cloud or here."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefill_stack.commands.up import DEFAULT_DIRECTORY
from prefill_stack.console import people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud import PrefilledState
    from prefill_engine.engine import Handle, StepEngine

    from prefill_stack.local_cloud import Credentials


@dataclass(frozen=True)
class Access:
    """How a cloud is reached: what `up` left behind, or the options that replace it."""

    directory: Path
    endpoint: str | None
    api_key: str | None
    control_key: str | None

    def credentials(self) -> "Credentials":
        """All three options, or what `up` left; NotConfigured when neither is there."""
        from prefill_stack.local_cloud import Credentials, load_credentials

        if self.endpoint and self.api_key and self.control_key:
            return Credentials(self.endpoint, self.api_key, self.control_key)
        if self.endpoint or self.api_key or self.control_key:
            raise NotConfigured(
                "--endpoint, --api-key and --control-key go together",
                "give all three, or none to use the cloud that `up` started here",
            )
        return load_credentials(self.directory)


def read_prompt(prompt: str, file: Path | None) -> str:
    """The prompt's text: an argument, a file, or stdin for `-`."""
    if file is not None:
        text = file.read_text(encoding="utf-8")
    else:
        text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise NotConfigured("the prompt is empty", "give a PROMPT, --file FILE, or - for stdin")
    return text


def prefill_here(engine: "StepEngine", tokens: list[int]) -> "Handle":
    """Prefill N-1 tokens in this process."""
    import numpy as np

    handle = engine.open(np.asarray(tokens, dtype=np.uint32))
    done = 0
    while done < len(tokens) - 1:
        count = min(engine.step_tokens, len(tokens) - 1 - done)
        engine.step([(handle, count)])
        done += count
    return handle


async def prefill_there(
    access: "Credentials", engine: "StepEngine", tokens: list[int], deadline_seconds: float
) -> "PrefilledState":
    """A verified state from the cloud."""
    from prefill_cloud import AsyncClient

    async with AsyncClient(
        access.endpoint,
        access.api_key,
        control_public_key=bytes.fromhex(access.control_public_key),
    ) as client:
        return await client.prefill(
            tokens, engine.identity, engine.schema, deadline_seconds=deadline_seconds
        )


def decode(engine: "StepEngine", handle: "Handle", last: int, count: int) -> Iterator[int]:
    """Greedy tokens, one by one, after token N was recomputed."""
    token = last
    for _ in range(count):
        token = int(engine.decode_step(handle, token).argmax())
        yield token


def _emit(tokens: Iterator[int], tokenizer: "object", *, stream: bool) -> list[int]:
    """Write the text as it grows (when streaming); return all tokens."""
    made: list[int] = []
    shown = ""
    for token in tokens:
        made.append(token)
        text = tokenizer.decode(made)  # type: ignore[attr-defined]
        # A character may span tokens: what is shown is never taken back.
        if stream and not text.endswith("\ufffd"):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    return made


def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads stdin.")] = "-",
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a file.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the shipped code LM.")] = None,
    local: Annotated[bool, typer.Option("--local/--cloud", help="Where to prefill.")] = False,
    stream: Annotated[bool, typer.Option(help="Show text as it comes.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 64,
    deadline_seconds: Annotated[float, typer.Option(min=0.1, help="For the cloud.")] = 120.0,
    directory: Annotated[Path, typer.Option(help="Where `up` left its access.")] = (
        DEFAULT_DIRECTORY
    ),
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of a gateway.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="PREFILL_API_KEY")] = None,
    control_key: Annotated[str | None, typer.Option(help="Control public key, hex.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Complete a prompt greedily; the state comes from the cloud unless --local."""
    text = read_prompt(prompt, file)
    access = Access(directory, endpoint, api_key, control_key)
    credentials = None if local else access.credentials()
    quiet_libraries()
    from prefill_engine.engine import StepEngine
    from prefill_engine.tokenizer import load_tokenizer

    from prefill_stack import shipped

    folder = checkpoint or shipped.checkpoint(shipped.CODE_LM)
    tokenizer = load_tokenizer(folder)
    tokens = [int(token) for token in tokenizer.encode(text)]
    console = people(quiet=True)
    started = time.perf_counter()
    with console.status(f"prefilling {len(tokens):,} tokens"):
        engine = StepEngine.load(folder, max_tokens=len(tokens) + max_new_tokens)
        if credentials is None:
            handle = prefill_here(engine, tokens)
        else:
            state = asyncio.run(prefill_there(credentials, engine, tokens, deadline_seconds))
            capacity = len(tokens) + max_new_tokens
            handle = engine.load_state(len(tokens) - 1, state.tensors, capacity)
    prefill_ms = (time.perf_counter() - started) * 1000
    steps = decode(engine, handle, tokens[-1], max_new_tokens)
    made = _emit(steps, tokenizer, stream=stream and not as_json)
    route = "local" if local else "cloud"
    if as_json:
        answer = {"route": route, "prompt_tokens": len(tokens), "tokens": made}
        print_json({**answer, "text": tokenizer.decode(made), "prefill_ms": round(prefill_ms, 1)})
        return
    sys.stdout.write("\n" if stream else tokenizer.decode(made) + "\n")
    console.print(f"{len(tokens):,} tokens prefilled by {route} in {prefill_ms:,.0f} ms")


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(generate)
