"""A worker process shared by a module, and gateway processes that a test may lose and restart."""

import os
import shutil
import signal
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from prefill_cloud import AsyncClient
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.spool import read_receipts
from prefill_engine.identity import identify
from prefill_engine.schema import state_schema
from prefill_stack import shipped
from prefill_stack.devca import new_api_key, private_directory
from prefill_stack.local_cloud import (
    FLEET_TOKEN_FILE,
    CloudPlan,
    LocalCloud,
    begin_cloud,
    gateway_plan,
    start_cloud,
)
from prefill_stack.supervisor import Supervisor, stop_child
from prefill_wire.identity import ModelIdentity
from prefill_wire.tensors import StateSchema

PROMPT = np.random.default_rng(5).integers(0, 190, 130, dtype=np.uint32)


class Model(NamedTuple):
    """Whom to ask for, without loading any weight."""

    identity: ModelIdentity
    schema: StateSchema


@pytest.fixture(scope="session")
def mqar():
    """The smaller of the shipped models."""
    found = identify(shipped.checkpoint(shipped.MQAR))
    identity = ModelIdentity(shipped.MQAR, found.fingerprint, found.tokenizer_fingerprint, "fp32")
    return Model(identity, state_schema(found.config, "fp32"))


@dataclass
class Scene:
    """One worker (or several), and the gateway that a test starts, loses and starts again."""

    supervisor: Supervisor
    cloud: LocalCloud
    model: Model

    def client(self, tenant="amber"):
        cloud = self.cloud
        return AsyncClient(
            cloud.endpoint,
            cloud.key_of(tenant),
            control_public_key=cloud.control_public_key,
            tls_roots=cloud.tls_roots,
            fallback="never",
            codec_policy="exact",
        )

    async def prefill(self, tokens=PROMPT, tenant="amber", **options):
        asked = {"deadline_seconds": 60.0, **options}
        async with self.client(tenant) as client:
            return await client.prefill(tokens, self.model.identity, self.model.schema, **asked)

    def receipts(self):
        """What is durable, read as another process would."""
        folder = self.cloud.gateway.plan.environment["PREFILL_SPOOL_DIR"]
        return [BilledAttempt.decode(body) for body in read_receipts(Path(folder))]

    def wait_stopped(self):
        """Until the gateway has paused itself at its failpoint."""
        os.waitid(os.P_PID, self.cloud.gateway.process.pid, os.WSTOPPED | os.WNOWAIT)

    def wait_dead(self):
        assert self.cloud.gateway.process.wait(timeout=60) == -signal.SIGKILL

    def restart(self):
        """The same gateway on the same port and spool, with no failpoint armed."""
        plan = self.cloud.gateway.plan
        environment = {**plan.environment, "PREFILL_FAILPOINTS": ""}
        child = self.supervisor.start(replace(plan, environment=environment))
        self.cloud = replace(self.cloud, gateway=child)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def cloud_plan(folder, **settings):
    model = {shipped.MQAR: shipped.checkpoint(shipped.MQAR)}
    return CloudPlan(folder, model, tenants=("amber", "birch"), **settings)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A supervisor with one ready worker for the module."""
    with Supervisor() as supervisor:
        starting = begin_cloud(supervisor, cloud_plan(tmp_path_factory.mktemp("cloud")))
        for child in starting.workers:
            supervisor.wait_ready(child)
        yield supervisor, starting


@pytest.fixture
def scene(workers, mqar, tmp_path):
    """`scene(failpoints)` starts a gateway of its own, whose spool is cut at each receipt."""
    supervisor, starting = workers
    started = []

    def start(failpoints=""):
        folder = private_directory(tmp_path / f"gateway-{len(started)}")
        shutil.copy(starting.plan.directory / FLEET_TOKEN_FILE, folder)
        plan = cloud_plan(
            folder,
            listen=f"127.0.0.1:{free_port()}",
            gateway_settings={"PREFILL_FAILPOINTS": failpoints, "PREFILL_SPOOL_SEGMENT_BYTES": "1"},
        )
        keys, public = tuple(map(new_api_key, plan.tenants)), starting.control.public_bytes
        addresses = [child.address("grpc") for child in starting.workers]
        child = supervisor.start(gateway_plan(plan, keys, addresses, public))
        cloud = LocalCloud(plan, child, tuple(starting.workers), keys, public)
        found = Scene(supervisor, cloud, mqar)
        started.append(found)
        return found

    yield start
    for each in started:
        stop_child(each.cloud.gateway)


@pytest.fixture
def whole_cloud(tmp_path, mqar):
    """`whole_cloud(...)`: workers and gateway of a test's own, with the settings of a CloudPlan."""
    with Supervisor() as supervisor:

        def start(**settings):
            plan = cloud_plan(tmp_path / "cloud", **settings)
            return Scene(supervisor, start_cloud(supervisor, plan), mqar)

        yield start
