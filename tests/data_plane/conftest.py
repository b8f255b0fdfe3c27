"""A running cloud, and an eye on everything that a test must not leave behind or log."""

import asyncio
import gc
import io
import logging
import sys
from pathlib import Path

import pytest
import structlog

# Tests are no package: the shipped classes beside them are found by their folder.
sys.path.insert(0, str(Path(__file__).parent))

from hand_client import HandClient
from in_process_cloud import Cloud
from prefill_data.gateway import __main__ as gateway_process
from prefill_data.worker import __main__ as worker_process


@pytest.fixture(autouse=True, scope="session")
def light_collections():
    """What was imported is never garbage: without it a collection takes a millisecond."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def log_lines():
    """All lines that the data plane logs, as JSON text."""
    text = io.StringIO()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(text),
        cache_logger_on_first_use=False,
    )
    yield text
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    """Calls that a test leaves open end with its server."""
    monkeypatch.setattr(gateway_process, "GRACE_SECONDS", 0)
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", 0)


@pytest.fixture
async def tidy(caplog, log_lines):
    """Fails a test that leaves a lost exception, an unexpected fault, or an error record."""
    lost = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))
    yield lost
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not lost
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert not errors, errors


@pytest.fixture
async def cloud(tmp_path, tidy):
    async with Cloud(tmp_path) as running:
        yield running


@pytest.fixture
def customer(cloud):
    """A customer of `cloud` by hand; options are HandClient's."""

    def make(tenant="acme", **options):
        return HandClient(cloud, tenant, **options)

    return make
