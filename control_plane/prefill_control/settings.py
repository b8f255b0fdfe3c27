"""One frozen settings object per process, read once in `main()` from `PREFILL_*` variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefill_fleet.service_urls import Refusal, refuse_postgres, refuse_redis
from prefill_wire.signing import SigningKey

from prefill_control.errors import SettingsError

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """Everything a control-plane process is told; secrets come from files and have no default."""

    host: str
    port: int
    database_url: str = field(repr=False)
    pepper: bytes = field(repr=False)
    api_key_pepper: bytes = field(default=b"", repr=False)
    redis_url: str = field(default="", repr=False)
    control_seed: bytes = field(default=b"", repr=False)
    fleet_token: bytes = field(default=b"", repr=False)
    public_url: str = "http://127.0.0.1"
    max_body_bytes: int = 65_536
    max_json_depth: int = 16
    requests_per_second: int = 100
    requests_burst: int = 200
    session_hours: int = 12
    key_cache_seconds: float = 2.0
    pool_size: int = 10

    @property
    def control_public_key(self) -> bytes:
        """What workers' certificates are held to; empty without a control key."""
        return SigningKey.from_seed(self.control_seed).public_bytes if self.control_seed else b""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> ControlSettings:
        """Raises `SettingsError` for the first variable that is missing or wrong."""
        host, port = _address(values, "PREFILL_LISTEN", "127.0.0.1:0")
        database_url = _secret(values, "PREFILL_DATABASE_URL_FILE").decode().strip()
        redis_url = _optional(values, "PREFILL_REDIS_URL_FILE").decode().strip()
        _refuse(refuse_postgres(database_url))
        _refuse(refuse_redis(redis_url) if redis_url else None)
        return cls(
            host=host,
            port=port,
            database_url=database_url,
            pepper=_secret(values, "PREFILL_PEPPER_FILE", SECRET_BYTES),
            api_key_pepper=_optional(values, "PREFILL_API_KEY_PEPPER_FILE", SECRET_BYTES),
            redis_url=redis_url,
            control_seed=_optional(values, "PREFILL_CONTROL_KEY_FILE"),
            fleet_token=_optional(values, "PREFILL_FLEET_TOKEN_FILE").strip(),
            public_url=values.get("PREFILL_PUBLIC_URL") or f"http://{host}:{port}",
            max_body_bytes=_number(values, "PREFILL_MAX_BODY_BYTES", 65_536),
            max_json_depth=_number(values, "PREFILL_MAX_JSON_DEPTH", 16),
            requests_per_second=_number(values, "PREFILL_API_REQUESTS_PER_SECOND", 100),
            requests_burst=_number(values, "PREFILL_API_REQUESTS_BURST", 200),
            session_hours=_number(values, "PREFILL_SESSION_HOURS", 12),
            pool_size=_number(values, "PREFILL_POOL_SIZE", 10),
        )


def _address(values: Mapping[str, str], name: str, default: str) -> tuple[str, int]:
    text = values.get(name) or default
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{name}={text!r} is not host:port", "example: 127.0.0.1:7080")
    return host.strip("[]"), int(port)


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise SettingsError(refusal.message, refusal.remedy)


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"{name}={text!r} is no number from 1 on", f"correct {name}")
    return int(text)


def _secret(values: Mapping[str, str], name: str, least: int = 1) -> bytes:
    path = values.get(name)
    if not path:
        raise SettingsError(f"{name} is not set", f"set {name}; see control_plane/README.md")
    if not Path(path).is_file():
        raise SettingsError(f"{name}: there is no file {path}", f"correct {name}")
    content = Path(path).read_bytes()
    if len(content) < least:
        raise SettingsError(f"{name}: {len(content)} bytes, not {least}", "make the file anew")
    return content


def _optional(values: Mapping[str, str], name: str, least: int = 1) -> bytes:
    return _secret(values, name, least) if values.get(name) else b""
