"""For every test process: it hears Ctrl-C and SIGTERM, and what its services keep goes with it."""

import os
import signal
from pathlib import Path

import pytest


def pytest_configure():
    """A shell's background job ignores SIGINT, and so would everything that tests start from it.

    SIGTERM, which would leave everything as it is, ends tests as Ctrl-C does.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_home_outlives_its_tests(tmp_path_factory):
    """Root's services keep their data outside of a test's folder: of tests that failed and of runs
    that were killed it would stay for ever."""
    if os.geteuid() != 0:
        yield
        return
    from prefill_stack.services.account import remove_homes

    own = tmp_path_factory.getbasetemp()
    run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    for other in run.parent.glob("pytest-*"):
        if other != run and not _lives(other):
            remove_homes(other)
    yield
    remove_homes(own)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    """A Redis of a module's own."""
    from prefill_stack.services.redis import Redis, RedisPlan

    server = Redis(RedisPlan(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.destroy()


def _lives(run: Path):
    """Whether the test run that a folder belongs to goes on: its lock names the process."""
    try:
        os.kill(int((run / ".lock").read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
