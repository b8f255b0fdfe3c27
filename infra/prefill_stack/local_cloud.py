"""One small cloud on this machine: keys, certificates, settings and processes put together."""

import datetime as dt
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.signing import SigningKey

from prefill_stack.devca import (
    AUTHORITY_FILE,
    ApiKey,
    TlsAuthority,
    new_api_key,
    private_directory,
    write_key_file,
    write_private,
)
from prefill_stack.errors import NotConfigured
from prefill_stack.supervisor import Child, ProcessPlan, Supervisor, check_port_free
from prefill_stack.up_folder import CLOUD_FILE, damaged, load_access, save_access

CERTIFICATE_MS = 30 * 24 * 3600 * 1000
CLOCK_SKEW_MS = 300_000
FLEET_TOKEN_FILE = "fleet.token"  # noqa: S105 (the name of a file)


@dataclass(frozen=True)
class CloudPlan:
    """What a local cloud consists of."""

    directory: Path
    checkpoints: Mapping[str, Path]
    tenants: tuple[str, ...] = ("demo",)
    datacenter: str = "local"
    listen: str = "127.0.0.1:0"
    profile: str = "fp32"
    workers: int = 1
    tls: bool = False
    tls_hosts: tuple[str, ...] = ()
    log_directory: Path | None = None
    worker_settings: Mapping[str, str] = field(default_factory=dict)
    gateway_settings: Mapping[str, str] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        """Where a process of this cloud logs."""
        return (self.log_directory or self.directory) / f"{name}.log"


@dataclass(frozen=True)
class LocalCloud:
    """A running cloud: where it listens and with what one gets in."""

    plan: CloudPlan
    gateway: Child
    workers: tuple[Child, ...]
    keys: tuple[ApiKey, ...]
    control_public_key: bytes

    @property
    def tls_roots(self) -> bytes | None:
        """The authority's certificate, PEM, when the cloud speaks TLS."""
        path = self.plan.directory / "tls" / AUTHORITY_FILE
        return path.read_bytes() if self.plan.tls else None

    @property
    def endpoint(self) -> str:
        return self.gateway.address("grpc")

    def key_of(self, tenant: str) -> str:
        """The API key of one of the plan's tenants."""
        return next(key.secret for key in self.keys if key.tenant == tenant)


@dataclass(frozen=True)
class Credentials:
    """What `generate` and an SDK need to reach a cloud."""

    endpoint: str
    api_key: str = field(repr=False)
    control_public_key: str
    tls_authority: str = ""

    @property
    def tls_roots(self) -> bytes | None:
        """The authority's certificate, PEM; None without TLS."""
        return Path(self.tls_authority).read_bytes() if self.tls_authority else None


def launch_workers(supervisor: Supervisor, plan: CloudPlan, control: SigningKey) -> list[Child]:
    """Start the plan's workers without waiting (they import torch: seconds)."""
    return [
        supervisor.launch(worker_plan(plan, f"worker-{number}", control))
        for number in range(plan.workers)
    ]


def start_cloud(supervisor: Supervisor, plan: CloudPlan) -> LocalCloud:
    """Start workers, then the gateway that knows them; returns when all are ready."""
    return finish_cloud(supervisor, begin_cloud(supervisor, plan))


@dataclass(frozen=True)
class Starting:
    """A cloud whose workers are being started."""

    plan: CloudPlan
    control: SigningKey
    workers: list[Child]


def begin_cloud(supervisor: Supervisor, plan: CloudPlan) -> Starting:
    """Check ports and files, write keys, start the workers."""
    check_port_free(plan.listen, "gateway")
    for name, path in plan.checkpoints.items():
        if not (path / "config.json").exists():
            raise NotConfigured(
                f"the checkpoint folder of {name} has no config.json: {path}",
                "name a Hugging Face checkpoint folder, as NAME=FOLDER",
            )
    private_directory(plan.directory)
    if plan.tls:
        _issue_tls(plan)
    write_private(plan.directory / FLEET_TOKEN_FILE, secrets.token_bytes(32).hex().encode())
    control = SigningKey.generate()
    return Starting(plan, control, launch_workers(supervisor, plan, control))


def finish_cloud(supervisor: Supervisor, starting: Starting) -> LocalCloud:
    """Wait for the workers, then start the gateway."""
    plan = starting.plan
    workers = tuple(supervisor.wait_ready(child) for child in starting.workers)
    keys = tuple(new_api_key(tenant) for tenant in plan.tenants)
    public = starting.control.public_bytes
    addresses = [worker.address("grpc") for worker in workers]
    gateway = supervisor.start(gateway_plan(plan, keys, addresses, public))
    return LocalCloud(plan, gateway, workers, keys, public)


def _process_names(plan: CloudPlan) -> list[str]:
    return ["gateway", *(f"worker-{number}" for number in range(plan.workers))]


def _issue_tls(plan: CloudPlan) -> None:
    """An authority of this cloud's own, and a server certificate for each process."""
    authority = TlsAuthority(plan.directory / "tls", dt.datetime.now(dt.UTC))
    hosts = dict.fromkeys(("localhost", "127.0.0.1", _host(plan), *plan.tls_hosts))
    for name in _process_names(plan):
        authority.issue(name, tuple(hosts))


def _host(plan: CloudPlan) -> str:
    return plan.listen.rpartition(":")[0].strip("[]")


def _tls_settings(plan: CloudPlan, name: str) -> dict[str, str]:
    if not plan.tls:
        return {}
    folder = plan.directory / "tls"
    return {
        "PREFILL_TLS_CERTIFICATE_FILE": str(folder / f"{name}.pem"),
        "PREFILL_TLS_KEY_FILE": str(folder / f"{name}.key"),
        "PREFILL_TLS_AUTHORITY_FILE": str(folder / AUTHORITY_FILE),
    }


def worker_plan(plan: CloudPlan, name: str, control: SigningKey) -> ProcessPlan:
    """A worker with a key of its own that the control key certifies."""
    home = private_directory(plan.directory / name)
    key = SigningKey.generate()
    now_ms = int(time.time() * 1000)
    certificate = WorkerCertificate(
        worker_id=name,
        datacenter=plan.datacenter,
        public_key=key.public_bytes,
        not_before_ms=now_ms - CLOCK_SKEW_MS,
        not_after_ms=now_ms + CERTIFICATE_MS,
    )
    signed = issue_certificate(control, certificate)
    settings = {
        "PREFILL_WORKER_ID": name,
        "PREFILL_DATACENTER": plan.datacenter,
        "PREFILL_LISTEN": "127.0.0.1:0",
        "PREFILL_DATA_LISTEN": f"{plan.listen.rpartition(':')[0]}:0",
        "PREFILL_DATA_HOST": next(iter(plan.tls_hosts), _host(plan)),
        "PREFILL_METRICS_LISTEN": "127.0.0.1:0",
        "PREFILL_CHECKPOINTS": ",".join(f"{n}={p}" for n, p in plan.checkpoints.items()),
        "PREFILL_NUMERICS_PROFILE": plan.profile,
        "PREFILL_WORKER_KEY_FILE": str(write_private(home / "worker.seed", key.seed())),
        "PREFILL_WORKER_CERTIFICATE_FILE": str(write_private(home / "worker.certificate", signed)),
        "PREFILL_SPILL_DIR": str(private_directory(home / "spill")),
        "PREFILL_FLEET_TOKEN_FILE": str(plan.directory / FLEET_TOKEN_FILE),
        **_tls_settings(plan, name),
        **plan.worker_settings,
    }
    return ProcessPlan(name, "prefill_data.worker", settings, plan.log(name))


def gateway_plan(
    plan: CloudPlan, keys: tuple[ApiKey, ...], workers: list[str], control_public_key: bytes
) -> ProcessPlan:
    """The gateway of a cloud's workers; its spool and epoch lie in the cloud's folder."""
    home = private_directory(plan.directory / "gateway")
    settings = {
        "PREFILL_GATEWAY_ID": "gateway-0",
        "PREFILL_DATACENTER": plan.datacenter,
        "PREFILL_LISTEN": plan.listen,
        "PREFILL_METRICS_LISTEN": "127.0.0.1:0",
        "PREFILL_WORKERS": ",".join(workers),
        "PREFILL_KEY_FILE": str(write_key_file(home / "keys.json", list(keys))),
        "PREFILL_SPOOL_DIR": str(private_directory(home / "spool")),
        "PREFILL_FLEET_TOKEN_FILE": str(plan.directory / FLEET_TOKEN_FILE),
        "PREFILL_CONTROL_PUBLIC_KEY": control_public_key.hex(),
        **_tls_settings(plan, "gateway"),
        **plan.gateway_settings,
    }
    return ProcessPlan(
        "gateway",
        "prefill_data.gateway",
        settings,
        plan.log(f"{plan.datacenter}-gateway" if plan.log_directory else "gateway"),
    )


def save_credentials(cloud: LocalCloud) -> Path:
    """Leave endpoint, key and pinned control key where `generate` looks for them (0600)."""
    authority = cloud.plan.directory / "tls" / AUTHORITY_FILE
    document = {
        "endpoint": cloud.endpoint,
        "api_key": cloud.keys[0].secret,
        "control_public_key": cloud.control_public_key.hex(),
        "tls_authority": str(authority) if cloud.plan.tls else "",
    }
    return save_access(cloud.plan.directory, document)


def load_credentials(directory: Path) -> Credentials:
    """Read what `up` left; NotConfigured when no cloud runs here."""
    document = load_access(directory)
    if not document:
        raise NotConfigured(
            f"no running cloud is known here ({directory / CLOUD_FILE} is missing)",
            "start one with `prefill-cloud up`, or give --endpoint, --api-key and --control-key",
        )
    try:
        return Credentials(**{field.name: document[field.name] for field in fields(Credentials)})
    except KeyError as error:
        raise damaged(directory / CLOUD_FILE) from error
