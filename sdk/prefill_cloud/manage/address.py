"""Where the management API is: https, or plain http on this machine alone."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from prefill_cloud.endpoint import Endpoint, tls_context
from prefill_cloud.errors import InvalidRequestError
from prefill_cloud.manage.errors import invalid

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_EXAMPLE = "Give a URL such as https://api.example:443, without path, query or credentials."


@dataclass(frozen=True, slots=True)
class Address:
    """`url` without a slash at its end; `loopback` when its traffic stays on this machine."""

    url: str
    loopback: bool

    @classmethod
    def parse(cls, text: str) -> Address:
        """`InvalidInputError` for what is no URL of an API, and for http to another machine."""
        shown = text.rpartition("@")[2][:80]  # a URL with a password is not repeated
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise invalid(f"{shown!r} is no URL", _EXAMPLE) from None
        more = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or more or not _HOST.fullmatch(parts.netloc):
            raise invalid(f"{shown!r} is no URL of an API", _EXAMPLE)
        loopback = Endpoint(host, port or 0).loopback
        if parts.scheme == "http" and not loopback:
            raise invalid(
                f"{shown!r} would carry the credential in plain text",
                "Use https; plain http only reaches an API on this machine.",
            )
        return cls(f"{parts.scheme}://{parts.netloc}", loopback)


def context_of(tls_roots: bytes | None) -> ssl.SSLContext:
    """TLS that trusts the given roots (PEM), or the system's; InvalidInputError for bad roots."""
    try:
        return tls_context(tls_roots)
    except InvalidRequestError as error:
        raise invalid(error.message, "Give the authority's certificates in PEM form.") from None


def authorization(credential: str | None) -> dict[str, str]:
    """The header of a credential, none for None; InvalidInputError never repeats it in words."""
    if credential is None:
        return {}
    if not credential or not credential.isascii() or not credential.isprintable():
        raise invalid(
            "the credential is empty or has characters that none has",
            "Give an API key (pck_..., an operator's pco_...) or a session token (pcs_...).",
        )
    return {"authorization": f"Bearer {credential}"}
