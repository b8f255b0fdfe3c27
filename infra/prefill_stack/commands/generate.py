"""`prefill-cloud generate`: complete a prompt, prefilled by a running cloud or here."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prefill_stack.commands.access import Access, open_client
from prefill_stack.commands.up import DEFAULT_DIRECTORY
from prefill_stack.console import mebibytes, people, print_json, quiet_libraries
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud import Generation
    from prefill_cloud.decode.local import LocalEngine
    from prefill_cloud.generation import Options
    from prefill_cloud.session import AsyncSession

    from prefill_stack.local_cloud import Credentials

Show = Callable[[str], None]
CodecPolicy = Literal["exact", "near-lossless", "compact", "auto"]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="<text>", help="Text that ends the answer; repeat.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="PREFILL_API_KEY", help="Rather by the environment: arguments are seen by others."
    ),
]


@dataclass(frozen=True)
class Completion:
    """What the command prints; `facts` are the cloud's, empty for a local prefill."""

    route: str
    reason: str
    tokens: list[int]
    text: str
    prompt_tokens: int
    prefill_ms: float
    facts: dict[str, object]

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "route": self.route,
            "reason": self.reason,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "text": self.text,
            "prefill_ms": round(self.prefill_ms, 1),
            **self.facts,
        }

    def summary(self) -> str:
        """One line for people."""
        line = f"{self.prompt_tokens:,} tokens, prefilled {self.route} in {self.prefill_ms:,.0f} ms"
        if self.facts:
            raw, sent = (int(str(self.facts[f"bytes_{name}"])) for name in ("raw", "sent"))
            policy = self.facts["codec_policy"]
            line += f", state {mebibytes(raw)} sent as {mebibytes(sent)} ({policy})"
        return f"{line} ({self.reason})"


def read_prompt(prompt: str, file: Path | None) -> str:
    """The prompt's text: an argument, a file, or stdin for `-`."""
    if file is not None and prompt != "-":
        raise NotConfigured("a PROMPT and --file are two prompts", "give one of them")
    if file is None and prompt == "-" and sys.stdin.isatty():
        people(quiet=True).print("type the prompt; Ctrl-D ends it, Ctrl-C gives up")
    try:
        if file is not None:
            text = file.read_text(encoding="utf-8")
        else:
            text = sys.stdin.read() if prompt == "-" else prompt
    except UnicodeDecodeError as error:
        place = "stdin" if file is None else str(file)
        raise NotConfigured(
            f"{place} is not UTF-8 text: byte {error.start} cannot be read", "give a text file"
        ) from None
    if not text:
        raise NotConfigured("the prompt is empty", "give a PROMPT, --file FILE, or - for stdin")
    return text


async def complete_here(
    engine: "LocalEngine", text: str, options: "Options", show: Show
) -> Completion:
    """Prefill and decode in this process, no cloud asked: a session without a client."""
    from prefill_cloud.session import AsyncSession

    async with AsyncSession(None, engine) as session:
        return await _stream(session, text, options, show)


async def complete_by_cloud(
    credentials: "Credentials", engine: "LocalEngine", text: str, options: "Options", show: Show
) -> Completion:
    """Ask the cloud as the SDK's policy says; fall back to this process when it cannot."""
    async with open_client(credentials) as client:
        await client.models()  # a wrong key is said at once, and the threshold is the cloud's
        async with client.session(engine) as session:
            return await _stream(session, text, options, show)


async def _stream(session: "AsyncSession", text: str, options: "Options", show: Show) -> Completion:
    async with session.stream(text, **options) as stream:
        async for piece in stream:
            show(piece.text)
        return _completion(stream.result)


def _completion(result: "Generation") -> Completion:
    timeline = result.timeline.as_ms()
    cloud = result.receipt is not None
    facts: dict[str, object] = {}
    if cloud:
        facts = {
            "codec_policy": result.codec_policy,
            "bytes_raw": result.bytes_raw,
            "bytes_sent": result.bytes_sent,
            "amount_micros": result.amount_micros,
        }
    facts |= {"request_id": result.request_id} if result.request_id else {}
    facts |= {"timeline_ms": {name: round(value, 1) for name, value in timeline.items()}}
    return Completion(
        route="by the cloud" if cloud else "here",
        reason=result.reason,
        tokens=result.tokens,
        text=result.text,
        prompt_tokens=result.prompt_tokens,
        prefill_ms=timeline["total"] - timeline["first_token"],
        facts=facts if cloud else {},
    )


def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads stdin.")] = "-",
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a file.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the shipped code LM.")] = None,
    local: Annotated[bool, typer.Option("--local/--cloud", help="Where to prefill.")] = False,
    stream: Annotated[bool, typer.Option(help="Show text as it comes.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Sample among the likeliest tokens of this mass."),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Stop = None,
    codec_policy: Annotated[
        CodecPolicy | None,
        typer.Option(help="How the state travels. Default: exact if greedy or seeded."),
    ] = None,
    deadline_seconds: Annotated[
        float, typer.Option(min=0.1, help="Of the prefill, wherever it happens.")
    ] = 120.0,
    directory: Annotated[Path, typer.Option(help="Where `up` left its access.")] = (
        DEFAULT_DIRECTORY
    ),
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of a gateway.")] = None,
    api_key: ApiKey = None,
    control_key: Annotated[str | None, typer.Option(help="Control public key, hex.")] = None,
    tls_roots: Annotated[Path | None, typer.Option(help="PEM of the cloud's authority.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Complete a prompt; a long one is prefilled by the cloud unless --local."""
    text = read_prompt(prompt, file)
    access = Access(directory, endpoint, api_key, control_key, tls_roots)
    credentials = None if local else access.credentials()
    quiet_libraries()
    from prefill_cloud.decode.local import LocalEngine

    from prefill_stack import shipped

    options: Options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or [],
        "deadline_seconds": deadline_seconds,
        "codec_policy": codec_policy,
    }
    show = _write if stream and not as_json else _nothing
    engine = LocalEngine.from_folder(checkpoint or shipped.checkpoint(shipped.CODE_LM))
    if credentials is None:
        done = asyncio.run(complete_here(engine, text, options, show))
    else:
        done = asyncio.run(complete_by_cloud(credentials, engine, text, options, show))
    if as_json:
        print_json(done.document())
        return
    _write("\n" if stream else done.text + "\n")  # before the line on stderr, in a pipe too
    people(quiet=True).print(done.summary(), soft_wrap=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _nothing(_text: str) -> None:
    return None


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(generate)
