"""host:port, and whether it lies on this machine: only there may anything travel in plain text."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from prefill_wire.loopback import is_loopback
from prefill_wire.status import StatusCode

from prefill_cloud.errors import error_for


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a gateway or a worker's data channel listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """`host:port` or `[v6]:port`; `InvalidRequestError` for anything else."""
        host, _, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host.startswith("[") and host.endswith("]")
        plain = bool(bare) and (bracketed or ":" not in bare) and "/" not in bare
        if not (plain and port.isdecimal() and 0 < int(port) < 65536):
            message = f"endpoint {text[:80]!r} is not host:port."
            raise error_for(StatusCode.MALFORMED_REQUEST, message)
        return cls(bare, int(port))

    @property
    def text(self) -> str:
        """As gRPC takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether its traffic stays on this machine."""
        return is_loopback(self.host)


def tls_context(roots_pem: bytes | None) -> ssl.SSLContext:
    """A client context that trusts the given roots (PEM), or the system's."""
    if roots_pem is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=roots_pem.decode("ascii"))
    except (UnicodeDecodeError, ssl.SSLError):
        message = "tls_roots holds no certificate in PEM form."
        raise error_for(StatusCode.MALFORMED_REQUEST, message) from None


def system_roots_pem() -> bytes | None:
    """The system's roots for gRPC, which would otherwise use its own; None when there are none."""
    path = ssl.get_default_verify_paths().cafile
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
