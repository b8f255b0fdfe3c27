"""Starts the whole platform in order: services, tables, control plane, workers, gateways."""

from __future__ import annotations

import time
from pathlib import Path

from prefill_fleet.credential import GatewayCertificate, issue_gateway_certificate
from prefill_wire.signing import SigningKey

from prefill_stack.devca import private_directory, write_private
from prefill_stack.local_cloud import (
    CERTIFICATE_MS,
    CLOCK_SKEW_MS,
    CloudPlan,
    gateway_plan,
    worker_plan,
)
from prefill_stack.platform.database_urls import database_urls
from prefill_stack.platform.keeper import Keeper
from prefill_stack.platform.parts import ProcessPart, ServicePart
from prefill_stack.platform.plan import Place, PlatformPlan
from prefill_stack.platform.platform import Platform
from prefill_stack.platform.secrets import PlatformSecrets
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.process import free_port
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_stack.supervisor import ProcessPlan, Supervisor, check_port_free


class PlatformStart:
    """One start; every step adds parts to the keeper."""

    def __init__(self, plan: PlatformPlan, keeper: Keeper, supervisor: Supervisor) -> None:
        self._plan, self._keeper, self._supervisor = plan, keeper, supervisor
        private_directory(plan.directory)
        self._secrets = PlatformSecrets(plan.secrets)
        self._found = Platform(plan, self._secrets)
        self._redis_urls: dict[str, str] = {}
        self._workers: dict[str, list[ProcessPart]] = {}

    def run(self) -> Platform:
        """Everything, in the order in which one needs the other.

        Seconds go to imports: workers' torch, the control plane's libraries, our own below. So
        processes are launched first; they wait for what they need, and are waited for later.
        """
        check_port_free(self._plan.api_listen, "control plane", "--api-listen")
        self._place_ports()
        services = self._services()
        self._launch_workers()  # Redis may come later than they do
        control = self._launch_control()  # so may PostgreSQL
        for part in services:
            self._keeper.start(part)
        self._prepare_database()
        self._keeper.start(control)
        self._seed()
        self._datacenters()
        return self._found

    def _place_ports(self) -> None:
        for place in self._plan.places:
            self._found.endpoints[place.name] = f"127.0.0.1:{free_port()}"

    def _services(self) -> list[ServicePart]:
        """Services of our own, not started yet; from now on every URL is known."""
        plan, parts = self._plan, []
        self._admin_url = plan.database_url
        if not plan.database_url:
            postgres = Postgres(PostgresPlan(plan.directory / "postgres", port=free_port()))
            parts.append(ServicePart("postgres", postgres))
            self._admin_url = postgres.url()
        self._redis_urls = dict.fromkeys(("control", "gateway", "worker"), plan.redis_url)
        if not plan.redis_url:
            redis = Redis(RedisPlan(plan.directory / "redis", port=free_port()))
            parts.append(ServicePart("redis", redis))
            self._redis_urls = {role: redis.url(role) for role in self._redis_urls}
        return parts

    def _launch_workers(self) -> None:
        for place in self._plan.places:
            names = [f"{place.name}-worker-{n}" for n in range(self._plan.workers)]
            self._workers[place.name] = [self._worker(place, name) for name in names]
            for part in self._workers[place.name]:
                part.launch()

    def _worker(self, place: Place, name: str) -> ProcessPart:
        settings = {
            **self._plan.worker_settings,
            "PREFILL_LISTEN": f"127.0.0.1:{free_port()}",  # gateways know it: it stays
            "PREFILL_REDIS_URL_FILE": str(self._redis_file("worker")),
        }
        cloud = self._cloud(place, worker_settings=settings)
        control = self._secrets.control_key
        return ProcessPart(name, self._supervisor, lambda: worker_plan(cloud, name, control))

    def _launch_control(self) -> ProcessPart:
        host, _, port = self._plan.api_listen.rpartition(":")
        listen = f"{host}:{free_port() if port == '0' else port}"
        secrets, urls = self._secrets, database_urls(self._admin_url, self._secrets)
        settings = {
            "PREFILL_LISTEN": listen,
            "PREFILL_DATABASE_URL_FILE": str(secrets.file("database.url", urls.app)),
            "PREFILL_REDIS_URL_FILE": str(self._redis_file("control")),
            "PREFILL_PEPPER_FILE": str(secrets.pepper),
            "PREFILL_API_KEY_PEPPER_FILE": str(secrets.api_key_pepper),
            "PREFILL_CONTROL_KEY_FILE": str(secrets.control_seed),
            "PREFILL_FLEET_TOKEN_FILE": str(secrets.fleet_token),
        }
        log = self._plan.logs / "control.log"
        process = ProcessPlan("control", "prefill_control", settings, log)
        self._found.api_url = f"http://{listen}"
        part = ProcessPart("control", self._supervisor, lambda: process)
        part.launch()
        return part

    def _prepare_database(self) -> None:
        from prefill_stack.platform.database import operator_credential, prepare_database

        urls = prepare_database(self._admin_url, self._secrets)
        credential = operator_credential(urls.app, self._secrets)
        self._found.operator, self._found.fresh = credential.secret, credential.fresh

    def _seed(self) -> None:
        """Catalogue and tenants; without the operator's credential they are somebody else's."""
        from prefill_stack.platform.seed import seed_platform

        if self._found.operator:
            seed_platform(self._found)

    def _datacenters(self) -> None:
        """Workers, which were launched, then all gateways at once."""
        for place in self._plan.places:
            for part in self._workers[place.name]:
                self._keeper.start(part)
        gateways = [self._gateway(place) for place in self._plan.places]
        for part in gateways:
            part.launch()
        for part in gateways:
            self._keeper.start(part)

    def _gateway(self, place: Place) -> ProcessPart:
        cloud = self._cloud(place, gateway_settings=self._gateway_settings(place))
        addresses = [part.address("grpc") for part in self._workers[place.name]]
        plan = gateway_plan(cloud, (), addresses, self._found.control_public_key)  # keys: snapshots
        return ProcessPart(f"{place.name}-gateway", self._supervisor, lambda: plan)

    def _gateway_settings(self, place: Place) -> dict[str, str]:
        others = [each for each in self._plan.places if each is not place]
        endpoints = self._found.endpoints
        peers = [f"{each.name}={endpoints[each.name]}@{each.rtt_ms}" for each in others]
        return {
            "PREFILL_GATEWAY_ID": f"{place.name}-gateway",
            "PREFILL_PEERS": ",".join(peers),
            "PREFILL_GATEWAYS": str(len(self._plan.places)),
            "PREFILL_REDIS_URL_FILE": str(self._redis_file("gateway")),
            "PREFILL_CONTROL_URL": self._found.api_url,
            "PREFILL_API_KEY_PEPPER_FILE": str(self._secrets.api_key_pepper),
            **self._gateway_identity(place),
            **self._plan.gateway_settings,
        }

    def _gateway_identity(self, place: Place) -> dict[str, str]:
        """A key of the gateway's own and the control plane's word for it."""
        key, now_ms = SigningKey.generate(), int(time.time() * 1000)
        certificate = GatewayCertificate(
            gateway_id=f"{place.name}-gateway",
            datacenter=place.name,
            public_key=key.public_bytes,
            not_before_ms=now_ms - CLOCK_SKEW_MS,
            not_after_ms=now_ms + CERTIFICATE_MS,
        )
        signed = issue_gateway_certificate(self._secrets.control_key, certificate)
        home = private_directory(self._plan.directory / place.name)
        return {
            "PREFILL_GATEWAY_KEY_FILE": str(write_private(home / "gateway.seed", key.seed())),
            "PREFILL_GATEWAY_CERTIFICATE_FILE": str(
                write_private(home / "gateway.certificate", signed)
            ),
        }

    def _redis_file(self, role: str) -> Path:
        return self._secrets.file(f"redis.{role}.url", self._redis_urls[role])

    def _cloud(self, place: Place, **settings: dict[str, str]) -> CloudPlan:
        """A place as the cloud it is: its own folder, our fleet's token, the common log folder."""
        token = {"PREFILL_FLEET_TOKEN_FILE": str(self._secrets.fleet_token)}
        return CloudPlan(
            directory=private_directory(self._plan.directory / place.name),
            checkpoints=self._plan.checkpoints,
            datacenter=place.name,
            listen=self._found.endpoints[place.name],
            profile=self._plan.profile,
            workers=self._plan.workers,
            log_directory=self._plan.logs,
            worker_settings={**settings.get("worker_settings", {}), **token},
            gateway_settings={**settings.get("gateway_settings", {}), **token},
        )
