"""HTTP as cheap as it gets, so that a bench measures the server and not its own client."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

MOST_HEADER_BYTES = 1 << 16
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """An answer that the bench did not ask for."""


def request(
    verb: str, path: str, credential: str, body: bytes = b"", headers: Sequence[str] = ()
) -> bytes:
    """One HTTP/1.1 request on a connection that is kept; `headers` are whole lines."""
    lines = [f"{verb} {path} HTTP/1.1", "Host: bench", f"Authorization: Bearer {credential}"]
    lines += headers
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Lines:
    """Kept connections to one server; a request waits until one is free."""

    host: str
    port: int
    count: int
    _free: "asyncio.Queue[Stream]" = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> "Lines":
        for _ in range(self.count):
            self._free.put_nowait(await self._open())
        return self

    async def _open(self) -> Stream:
        return await asyncio.open_connection(self.host, self.port, limit=MOST_HEADER_BYTES)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while not self._free.empty():
            writer = self._free.get_nowait()[1]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, wanted: bytes) -> bytes:
        """The body of a success; raises `Refused` for any other answer."""
        reader, writer = await self._free.get()
        if reader.at_eof():  # servers close what was idle for some seconds
            writer.close()
            reader, writer = await self._open()
        writer.write(wanted)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(b"content-length:") + len(b"content-length:")
        body = await reader.readexactly(int(head[start : head.index(b"\r", start)]))
        self._free.put_nowait((reader, writer))
        if not head[:16].split()[1].startswith(b"2"):
            raise Refused(f"{head[:16]!r}: {body[:300]!r}")
        return body
