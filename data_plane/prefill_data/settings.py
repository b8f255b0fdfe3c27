"""One frozen settings object per process, read once in `main()` from `PREFILL_*` variables."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefill_fleet.service_urls import refuse_redis
from prefill_wire.loopback import is_loopback

from prefill_data.calls import USUAL, CallLimits
from prefill_data.errors import SettingsError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; port 0 takes any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return is_loopback(self.host)

    @property
    def concrete(self) -> bool:
        """Whether others can be told it: one host and one port."""
        try:
            return self.port > 0 and not ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return self.port > 0

    def text(self, port: int | None = None) -> str:
        """host:port, brackets around an IPv6 host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port if port is None else port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a server, and of the authority that its peers' certificates are held to."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """Another datacenter's gateway, and the round trip to it."""

    datacenter: str
    endpoint: str
    rtt_ms: float


class Environment:
    """Reads variables and names the one that is missing or wrong."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        """A variable; without a default it has to be there."""
        value = self._values.get(name) or default
        if value is None:
            raise SettingsError(f"{name} is not set", f"set {name}; see data_plane/README.md")
        return value

    def number(self, name: str, default: int, least: int = 0) -> int:
        """A whole number."""
        text = self._values.get(name) or str(default)
        if not text.isdecimal() or int(text) < least:
            raise SettingsError(f"{name}={text!r} is no number from {least} on", f"correct {name}")
        return int(text)

    def address(self, name: str, default: str | None = None) -> Address:
        """host:port."""
        text = self.text(name, default)
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(f"{name}={text!r} is not host:port", "example: 127.0.0.1:7070")
        return Address(host.strip("[]"), int(port))

    def file(self, name: str) -> Path:
        """A file that exists."""
        path = Path(self.text(name))
        if not path.is_file():
            raise SettingsError(f"{name}: there is no file {path}", f"correct {name}")
        return path

    def folder(self, name: str) -> Path:
        """A folder that exists."""
        path = Path(self.text(name))
        if not path.is_dir():
            raise SettingsError(f"{name}: there is no folder {path}", f"make it, or correct {name}")
        return path

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """`a=b,c=d`; an empty list when it is not set."""
        entries = [e.strip() for e in (self._values.get(name) or "").split(",") if e.strip()]
        split = [entry.partition("=") for entry in entries]
        wrong = [entry for entry, (key, _, value) in zip(entries, split, strict=True)
                 if not (key and value)]  # fmt: skip
        if wrong:
            raise SettingsError(f"{name}: {wrong[0]!r} is not NAME=VALUE", f"correct {name}")
        return [(key, value) for key, _, value in split]

    def secret(self, name: str) -> bytes:
        """The content of a secret's file: at least 32 bytes; the bytes never show in a message."""
        content = self.file(name).read_bytes().strip()
        if len(content) < 32:
            raise SettingsError(
                f"{name}: the file has {len(content)} bytes, not 32", "make it anew"
            )
        return content

    def tls(self, *listens: Address) -> Tls | None:
        """TLS files; without them only loopback may be listened on."""
        names = ("CERTIFICATE", "KEY", "AUTHORITY")
        if any(self._values.get(f"PREFILL_TLS_{name}_FILE") for name in names):
            return Tls(*(self.file(f"PREFILL_TLS_{name}_FILE") for name in names))
        for listen in listens:
            if not listen.loopback:
                raise SettingsError(
                    f"{listen.text()} is not loopback, and PREFILL_TLS_CERTIFICATE_FILE is not set",
                    "set the three PREFILL_TLS_*_FILE variables, or listen on 127.0.0.1",
                )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLink:
    """How a process reaches the control plane; without a Redis it stands alone, on its key file.

    `gateways`: how many share the limits, for when Redis is away. `seed` and `certificate` are a
    gateway's own, and sign what it tells.
    """

    redis_url: str = field(default="", repr=False)  # may hold a password
    api_key_pepper: bytes = field(default=b"", repr=False)
    gateways: int = 1
    control_url: str = ""
    seed: bytes = field(default=b"", repr=False)
    certificate: bytes = b""


def read_link(values: Mapping[str, str], env: Environment) -> ControlLink:
    """The variables that belong together; all may be absent."""
    redis_url = values.get("PREFILL_REDIS_URL", "")
    if values.get("PREFILL_REDIS_URL_FILE"):
        redis_url = env.file("PREFILL_REDIS_URL_FILE").read_text(encoding="utf-8").strip()
    if redis_url and (refusal := refuse_redis(redis_url)):
        raise SettingsError(refusal.message, refusal.remedy)

    def content(name: str) -> bytes:
        return env.file(name).read_bytes() if values.get(name) else b""

    return ControlLink(
        redis_url=redis_url,
        api_key_pepper=content("PREFILL_API_KEY_PEPPER_FILE"),
        gateways=env.number("PREFILL_GATEWAYS", 1, 1),
        control_url=values.get("PREFILL_CONTROL_URL", ""),
        seed=content("PREFILL_GATEWAY_KEY_FILE"),
        certificate=content("PREFILL_GATEWAY_CERTIFICATE_FILE"),
    )


def read_calls(env: Environment) -> CallLimits:
    """How many calls a gRPC server takes, and when a silent connection ends. Unless it is told, a
    tenant has a quarter of the calls."""
    most = env.number("PREFILL_MAX_CALLS", USUAL.most, 1)
    return CallLimits(
        most=most,
        most_a_tenant=env.number("PREFILL_MAX_CALLS_A_TENANT", max(1, most // 4), 1),
        most_unproven=max(1, most // 8),
        most_a_connection=env.number("PREFILL_MAX_CALLS_A_CONNECTION", USUAL.most_a_connection, 1),
        most_connections=env.number("PREFILL_MAX_CALLERS", USUAL.most_connections, 1),
        silence_seconds=env.number("PREFILL_KEEPALIVE_SECONDS", USUAL.silence_seconds, 1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything a prefill worker is told; `data_host` is the name that SDKs reach it by."""

    worker_id: str
    datacenter: str
    listen: Address
    data_listen: Address
    metrics_listen: Address
    data_host: str
    checkpoints: Mapping[str, Path]
    profile: str
    key_seed: bytes = field(repr=False)
    certificate: bytes
    fleet_token: bytes = field(repr=False)
    spill_dir: Path
    memory_cap_bytes: int
    stream_memory_bytes: int
    max_connections: int
    tls: Tls | None
    failpoints: str
    redis_url: str = field(default="", repr=False)
    calls: CallLimits = USUAL

    @classmethod
    def read(cls, values: Mapping[str, str]) -> WorkerSettings:
        """Raises `SettingsError` for the first variable that is missing or wrong."""
        env = Environment(values)
        listen, data = env.address("PREFILL_LISTEN"), env.address("PREFILL_DATA_LISTEN")
        checkpoints = {n: Path(p) for n, p in env.pairs("PREFILL_CHECKPOINTS")}
        if not checkpoints:
            raise SettingsError("PREFILL_CHECKPOINTS is empty", "name a folder: my-model=/path")
        return cls(
            worker_id=env.text("PREFILL_WORKER_ID"),
            datacenter=env.text("PREFILL_DATACENTER"),
            listen=listen,
            data_listen=data,
            metrics_listen=env.address("PREFILL_METRICS_LISTEN", "127.0.0.1:0"),
            data_host=values.get("PREFILL_DATA_HOST", "") or data.host,
            checkpoints=checkpoints,
            profile=env.text("PREFILL_NUMERICS_PROFILE", "fp32"),
            key_seed=env.file("PREFILL_WORKER_KEY_FILE").read_bytes(),
            certificate=env.file("PREFILL_WORKER_CERTIFICATE_FILE").read_bytes(),
            fleet_token=env.secret("PREFILL_FLEET_TOKEN_FILE"),
            spill_dir=env.folder("PREFILL_SPILL_DIR"),
            memory_cap_bytes=env.number("PREFILL_MEMORY_CAP_BYTES", 4096 * MIB, MIB),
            stream_memory_bytes=env.number("PREFILL_STREAM_MEMORY_BYTES", 64 * MIB),
            max_connections=env.number("PREFILL_MAX_CONNECTIONS", 256, 1),
            tls=env.tls(listen, data),
            failpoints=values.get("PREFILL_FAILPOINTS", ""),
            redis_url=read_link(values, env).redis_url,
            calls=read_calls(env),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything a gateway is told; `price` is of a million tokens that no cache holds.

    `advertised`: where SDKs and others reach it, which its heartbeats tell.
    """

    gateway_id: str
    datacenter: str
    listen: Address
    advertised: str = ""
    metrics_listen: Address
    workers: tuple[str, ...]
    peers: tuple[Peer, ...]
    key_file: Path | None
    fleet_token: bytes = field(repr=False)
    spool_dir: Path
    control_public_key: bytes
    routing_threshold_tokens: int
    lease_seconds: int
    max_deadline_seconds: int
    price_micros_per_million_tokens: int
    connections: int
    tls: Tls | None
    failpoints: str
    spool_segment_bytes: int = 64 * MIB
    link: ControlLink = ControlLink()
    calls: CallLimits = USUAL

    @classmethod
    def read(cls, values: Mapping[str, str]) -> GatewaySettings:
        """Raises `SettingsError` for the first variable that is missing or wrong."""
        env = Environment(values)
        listen = env.address("PREFILL_LISTEN")
        link = read_link(values, env)
        return cls(
            gateway_id=env.text("PREFILL_GATEWAY_ID"),
            datacenter=env.text("PREFILL_DATACENTER"),
            listen=listen,
            advertised=_advertised(env, listen, told=bool(link.redis_url and link.seed)),
            metrics_listen=env.address("PREFILL_METRICS_LISTEN", "127.0.0.1:0"),
            workers=tuple(w for w in env.text("PREFILL_WORKERS").split(",") if w),
            peers=tuple(_peer(name, value) for name, value in env.pairs("PREFILL_PEERS")),
            key_file=None if link.redis_url else env.file("PREFILL_KEY_FILE"),
            fleet_token=env.secret("PREFILL_FLEET_TOKEN_FILE"),
            spool_dir=env.folder("PREFILL_SPOOL_DIR"),
            control_public_key=_public_key(env.text("PREFILL_CONTROL_PUBLIC_KEY")),
            routing_threshold_tokens=env.number("PREFILL_ROUTING_THRESHOLD_TOKENS", 4096),
            lease_seconds=env.number("PREFILL_LEASE_SECONDS", 120, 1),
            max_deadline_seconds=env.number("PREFILL_MAX_DEADLINE_SECONDS", 600, 1),
            price_micros_per_million_tokens=env.number(
                "PREFILL_PRICE_MICROS_PER_MILLION_TOKENS", 0
            ),
            connections=env.number("PREFILL_STREAM_CONNECTIONS", 4, 1),
            tls=env.tls(listen),
            failpoints=values.get("PREFILL_FAILPOINTS", ""),
            spool_segment_bytes=env.number("PREFILL_SPOOL_SEGMENT_BYTES", 64 * MIB, 1),
            link=link,
            calls=read_calls(env),
        )


def _advertised(env: Environment, listen: Address, *, told: bool) -> str:
    """Where others reach a gateway: as it is told, or where it listens when that is one place."""
    name = "PREFILL_ADVERTISED_ENDPOINT"
    if given := env.text(name, ""):
        if not env.address(name).concrete:
            raise SettingsError(
                f"{name}={given!r} is no place that others reach", f"correct {name}"
            )
        return given
    if told and not listen.concrete:
        raise SettingsError(
            f"PREFILL_LISTEN={listen.text()} tells others no place to reach this gateway",
            f"set {name} to the host:port that SDKs use",
        )
    return listen.text() if listen.concrete else ""


def _peer(name: str, value: str) -> Peer:
    """`name=host:port@rtt_ms`."""
    endpoint, _, text = value.partition("@")
    try:
        rtt_ms = float(text or "0")
    except ValueError:
        rtt_ms = -1.0
    if not (endpoint and 0 <= rtt_ms < math.inf):  # a NaN would be no order among datacenters
        raise SettingsError(f"PREFILL_PEERS: {value!r} is not host:port@rtt_ms", "correct it")
    return Peer(name, endpoint, rtt_ms)


def _public_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingsError("PREFILL_CONTROL_PUBLIC_KEY is not 64 hex digits", "copy it whole")
    return key
