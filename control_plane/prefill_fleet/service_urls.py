"""URLs of the services that our processes share: off this machine they need verified TLS.

A Redis or PostgreSQL in plain text hands its password, and who prefills what, to whoever listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from prefill_wire.loopback import is_loopback

REDIS, POSTGRES = ("redis", "rediss", "unix"), ("postgres", "postgresql")
REDIS_REMEDY = "write rediss:// and let its certificate be verified, or use a Redis on 127.0.0.1"
POSTGRES_REMEDY = (
    "add sslmode=verify-full (and sslrootcert=FILE for an authority of your own), "
    "or use a PostgreSQL on 127.0.0.1"
)
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}  # any other word weakens it


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a URL is not used, without its password, and what to do."""

    message: str
    remedy: str


def refuse_redis(url: str) -> Refusal | None:
    """None for a Redis on this machine, or one over TLS whose certificate is verified."""
    scheme, hosts, options = _parts(url)
    if scheme not in REDIS or not (hosts or scheme == "unix"):
        return Refusal("the Redis URL is none", "write redis://USER:PASSWORD@HOST:PORT/0")
    far = [host for host in hosts if not is_loopback(host)]
    verified = all(options.get(name, word).lower() == word for name, word in VERIFIED.items())
    if scheme == "unix" or not far or (scheme == "rediss" and verified):
        return None
    how = "without verifying the certificate" if scheme == "rediss" else "in plain text"
    return Refusal(f"the Redis at {far[0]} would be reached {how}", REDIS_REMEDY)


def refuse_postgres(url: str) -> Refusal | None:
    """None for a PostgreSQL on this machine, or one over TLS with `sslmode=verify-full`."""
    scheme, hosts, options = _parts(url)
    named = [each for each in options.get("host", "").split(",") if each]
    if scheme not in POSTGRES or not (hosts or named):
        example = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        return Refusal("the PostgreSQL URL is none, or names no host", example)
    far = [h for h in (*hosts, *named) if not (is_loopback(h) or h.startswith("/"))]
    if not far or options.get("sslmode") == "verify-full":
        return None
    mode = options.get("sslmode", "")
    how = f"with sslmode={mode}" if mode else "without TLS that is verified"
    return Refusal(f"the PostgreSQL at {far[0]} would be reached {how}", POSTGRES_REMEDY)


def _parts(url: str) -> tuple[str, list[str], Mapping[str, str]]:
    """Scheme, hosts (several for PostgreSQL) and options; of a name given twice, all its words."""
    try:
        parts = urlsplit(url)
        places = [_host(place) for place in parts.netloc.rpartition("@")[2].split(",")]
        options = {name: ",".join(values) for name, values in parse_qs(parts.query).items()}
    except ValueError:
        return "", [], {}
    return parts.scheme, [place for place in places if place], options


def _host(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return unquote(place.partition(":")[0])
