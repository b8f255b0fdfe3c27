"""One control-plane process on services of its own, with a crowd in its database."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefill_stack.load.crowd import CrowdPlan, filled
from prefill_stack.platform.database import operator_credential, prepare_database
from prefill_stack.platform.database_urls import DATABASE
from prefill_stack.platform.secrets import PlatformSecrets
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.process import free_port
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_stack.supervisor import ProcessPlan, Supervisor

UNTHROTTLED = "1000000"


@dataclass(frozen=True)
class ControlStand:
    """What a bench needs of it; `secrets` are the crowd's API keys."""

    port: int
    pid: int
    operator: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    api_key_pepper: bytes = field(repr=False)
    control_public_key: bytes
    gateway_redis_url: str = field(repr=False)


@contextmanager
def control_stand(plan: CrowdPlan) -> Iterator[ControlStand]:
    """Durable services, migrated and filled tables, one process that answers and publishes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefill-bench-api-")))
        postgres = Postgres(PostgresPlan(folder / "postgres"))
        stack.callback(postgres.destroy)
        redis = Redis(RedisPlan(folder / "redis"))
        stack.callback(redis.destroy)
        postgres.start()
        redis.start()
        secrets = PlatformSecrets(folder)
        urls = prepare_database(postgres.url(), secrets)
        crowd = filled(postgres.url(DATABASE), secrets.proofs(), plan)
        operator = operator_credential(urls.app, secrets).secret
        port = free_port()
        settings = {
            "PREFILL_LISTEN": f"127.0.0.1:{port}",
            "PREFILL_DATABASE_URL_FILE": str(secrets.file("database.url", urls.app)),
            "PREFILL_REDIS_URL_FILE": str(secrets.file("redis.url", redis.url("control"))),
            "PREFILL_PEPPER_FILE": str(secrets.pepper),
            "PREFILL_API_KEY_PEPPER_FILE": str(secrets.api_key_pepper),
            "PREFILL_CONTROL_KEY_FILE": str(secrets.control_seed),
            "PREFILL_FLEET_TOKEN_FILE": str(secrets.fleet_token),
            "PREFILL_API_REQUESTS_PER_SECOND": UNTHROTTLED,
            "PREFILL_API_REQUESTS_BURST": UNTHROTTLED,
        }
        process = ProcessPlan("control", "prefill_control", settings, folder / "control.log")
        child = stack.enter_context(Supervisor()).start(process)
        yield ControlStand(
            port=port,
            pid=child.process.pid,
            operator=operator,
            secrets=crowd,
            api_key_pepper=secrets.api_key_pepper.read_bytes(),
            control_public_key=secrets.control_key.public_bytes,
            gateway_redis_url=redis.url("gateway"),
        )
