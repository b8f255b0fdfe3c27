"""`prefill-cloud up` as a user meets it, with stand-ins for worker and gateway."""

import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from prefill_stack import shipped

CODE_LM = shipped.checkpoint(shipped.CODE_LM)
STAND_IN = """
import json, os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host, port = os.environ["PREFILL_LISTEN"].rsplit(":", 1)
listener = socket.create_server((host, int(port)))
address = "%s:%d" % listener.getsockname()[:2]
print(json.dumps({"ready": True, "grpc": address}), flush=True)
signal.pause()
"""


@pytest.fixture
def start(tmp_path):
    """Starts `up` in a folder of its own; whatever is left at the end is killed."""
    stand_ins = tmp_path / "stand_ins" / "prefill_data"
    stand_ins.mkdir(parents=True)
    (stand_ins / "__init__.py").touch()
    for name in ("worker", "gateway"):
        (stand_ins / f"{name}.py").write_text(STAND_IN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(stand_ins.parent)}
    started = []

    def run(*options):
        command = [sys.executable, "-m", "prefill_stack.cli", "up", "--small", "--json"]
        process = subprocess.Popen(
            [*command, "--checkpoint", f"model={CODE_LM}", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def read_access(process):
    """The JSON object that `up` prints when everything runs."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            return json.loads("".join(lines))
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_it_is_told_to_stop(start, tmp_path, number):
    process = start("--workers", "2", "--tenant", "amber", "--tenant", "birch")
    access = read_access(process)
    assert set(access["api_keys"]) == {"amber", "birch"}
    assert set(access["processes"]) == {"worker-0", "worker-1", "gateway"}
    left = json.loads((tmp_path / ".prefill" / "cloud.json").read_text(encoding="utf-8"))
    assert left["endpoint"] == access["endpoint"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not any(psutil.pid_exists(pid) for pid in access["processes"].values())
    assert not (tmp_path / ".prefill" / "cloud.json").exists()


def test_nothing_is_left_when_up_is_killed(start):
    process = start()
    children = [psutil.Process(pid) for pid in read_access(process)["processes"].values()]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_a_dead_worker_ends_up_and_is_named(start):
    process = start()
    pids = read_access(process)["processes"]
    os.kill(pids["worker-0"], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "worker-0 stopped with exit code -9" in errors
    assert not psutil.pid_exists(pids["gateway"])


def test_a_port_in_use_is_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        _, errors = (process := start("--listen", address)).communicate(timeout=120)
    assert process.returncode == 1
    assert f"the gateway cannot listen on {address}" in errors
    assert "Traceback" not in errors
