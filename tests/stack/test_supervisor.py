"""Children are ready when they say so, stop in order, and never outlive us."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import psutil
import pytest
from prefill_stack.errors import PortInUse, ProcessFailed
from prefill_stack.supervisor import ProcessPlan, Supervisor, check_port_free

READY_THEN_WAIT = """
import json, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"ready": True, "grpc": "127.0.0.1:1"}), flush=True)
signal.pause()
"""
DEAF = READY_THEN_WAIT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
FAILS = "import sys; print('disk full', file=sys.stderr); sys.exit(3)"

PARENT = """
import sys, time
from pathlib import Path
from prefill_stack.supervisor import ProcessPlan, Supervisor
folder = Path(sys.argv[1])
supervisor = Supervisor()
plan = ProcessPlan("a", "waiting_module", {"PYTHONPATH": str(folder)}, folder / "a.log")
child = supervisor.start(plan)
print(child.process.pid, flush=True)
time.sleep(600)
"""


def plan_for(folder, source, name="child"):
    (folder / f"{name}_module.py").write_text(textwrap.dedent(source), encoding="utf-8")
    settings = {"PYTHONPATH": str(folder)}
    return ProcessPlan(name, f"{name}_module", settings, folder / f"{name}.log")


def test_a_ready_child_is_started_and_stopped(tmp_path):
    with Supervisor() as supervisor:
        child = supervisor.start(plan_for(tmp_path, READY_THEN_WAIT))
        assert child.address("grpc") == "127.0.0.1:1"
        assert child.alive
        pid = child.process.pid
    assert not psutil.pid_exists(pid)
    assert child.process.returncode == 0


def test_children_stop_last_started_first(tmp_path):
    source = READY_THEN_WAIT.replace(
        "lambda *_: sys.exit(0)", "lambda *_: (open('order', 'a').write(sys.argv[0]), sys.exit(0))"
    )
    source = f"import os; os.chdir({str(tmp_path)!r})\n" + textwrap.dedent(source)
    with Supervisor() as supervisor:
        for name in ("first", "second"):
            supervisor.start(plan_for(tmp_path, source, name))
    order = (tmp_path / "order").read_text(encoding="utf-8")
    assert order.index("second") < order.index("first")


def test_a_frozen_child_is_stopped(tmp_path):
    with Supervisor() as supervisor:
        child = supervisor.start(plan_for(tmp_path, READY_THEN_WAIT))
        os.kill(child.process.pid, signal.SIGSTOP)
    assert child.process.returncode is not None


def test_a_deaf_child_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("prefill_stack.supervisor.STOP_SECONDS", 0.2)
    with Supervisor() as supervisor:
        child = supervisor.start(plan_for(tmp_path, DEAF))
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_fails_is_named_with_its_last_words(tmp_path):
    with Supervisor() as supervisor, pytest.raises(ProcessFailed) as caught:
        supervisor.start(plan_for(tmp_path, FAILS))
    assert "exit code 3: disk full" in caught.value.message
    assert "child.log" in caught.value.remedy


def test_a_child_that_is_never_ready_is_refused(tmp_path):
    quiet = "import signal; signal.pause()"
    with Supervisor(ready_seconds=0.5) as supervisor, pytest.raises(ProcessFailed, match="0 s"):
        supervisor.start(plan_for(tmp_path, quiet))


def test_no_process_is_left_when_the_parent_is_killed(tmp_path):
    (tmp_path / "waiting_module.py").write_text(READY_THEN_WAIT, encoding="utf-8")
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    gone, alive = psutil.wait_procs([orphan], timeout=20)
    assert gone
    assert not alive


def test_the_callers_settings_do_not_leak_into_children(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFILL_FAILPOINTS", "worker.chunk=kill")
    source = """
    import json, os, signal
    seen = sorted(name for name in os.environ if name.startswith("PREFILL_"))
    print(json.dumps({"ready": True, "seen": seen}), flush=True)
    signal.pause()
    """
    with Supervisor() as supervisor:
        assert supervisor.start(plan_for(tmp_path, source)).ready["seen"] == []


def test_a_taken_port_is_named():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(PortInUse) as caught:
            check_port_free(address, "gateway")
    assert address in caught.value.message
    assert "--listen" in caught.value.remedy
    check_port_free(address, "gateway")
