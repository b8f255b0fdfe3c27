"""A local cloud is refused early and by name; what it leaves for `generate` is private."""

import json
import time

import pytest
from prefill_stack.devca import new_api_key
from prefill_stack.errors import NotConfigured, StackError
from prefill_stack.local_cloud import (
    CloudPlan,
    LocalCloud,
    begin_cloud,
    load_credentials,
    save_credentials,
)
from prefill_stack.supervisor import Child, Supervisor
from prefill_stack.up_folder import CLOUD_FILE
from prefill_wire.certificate import verify_certificate


class RecordingSupervisor(Supervisor):
    """Keeps the plans and starts nothing."""

    def __init__(self):
        super().__init__()
        self.plans = []

    def launch(self, plan):
        self.plans.append(plan)
        return Child(plan, process=None)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def plan(tmp_path, checkpoint):
    return CloudPlan(tmp_path / "cloud", {"model": checkpoint}, workers=2)


def test_every_worker_gets_a_certified_key_of_its_own(plan):
    supervisor = RecordingSupervisor()
    starting = begin_cloud(supervisor, plan)
    seeds = set()
    for number, process in enumerate(supervisor.plans):
        settings = process.environment
        with open(settings["PREFILL_WORKER_CERTIFICATE_FILE"], "rb") as file:
            signed = file.read()
        now_ms = int(time.time() * 1000)
        certificate = verify_certificate(starting.control.public_bytes, signed, now_ms)
        assert certificate.worker_id == settings["PREFILL_WORKER_ID"] == f"worker-{number}"
        seeds.add(settings["PREFILL_WORKER_KEY_FILE"])
    assert len(seeds) == 2


def test_private_files_are_private(plan):
    begin_cloud(RecordingSupervisor(), plan)
    modes = {path: path.stat().st_mode & 0o077 for path in plan.directory.rglob("*")}
    assert modes
    assert not any(modes.values())


def test_a_folder_without_a_checkpoint_is_refused(plan, checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(NotConfigured, match="model has no config"):
        begin_cloud(RecordingSupervisor(), plan)


def test_credentials_come_back_as_they_were_saved(plan):
    begin_cloud(RecordingSupervisor(), plan)
    gateway = Child(None, None, ready={"grpc": "127.0.0.1:7"})
    key = new_api_key("demo")
    path = save_credentials(LocalCloud(plan, gateway, (), (key,), b"\x01" * 32))
    found = load_credentials(plan.directory)
    assert (found.endpoint, found.api_key) == ("127.0.0.1:7", key.secret)
    assert found.control_public_key == "01" * 32
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"endpoint": "a"})])
def test_damaged_credentials_are_named(tmp_path, content):
    (tmp_path / CLOUD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(StackError, match="is damaged"):
        load_credentials(tmp_path)
