"""The sync client: the same answers, its loop in a thread of its own, Ctrl-C leaves nothing."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from counting_engine import CountingEngine
from loopback_cloud import API_KEY, IDENTITY, SCHEMA, LoopbackCloud, random_state
from prefill_cloud import Client, PrefillCloudError, Route
from prefill_cloud.blocking import LoopThread

TOKENS = list(range(100, 112))


@pytest.fixture
def cloud_elsewhere():
    """A cloud whose event loop runs in another thread."""
    thread, cloud = LoopThread(), LoopbackCloud()
    thread.run(cloud.__aenter__())
    yield cloud
    thread.run(cloud.__aexit__())
    thread.close()


@pytest.fixture
def client(cloud_elsewhere, quick):
    options = {"control_public_key": cloud_elsewhere.control_public_key, "tuning": quick}
    with Client(cloud_elsewhere.endpoint, API_KEY, codec_policy="exact", **options) as made:
        yield made


def test_a_state_without_await(client):
    state = client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    for key, array in random_state(TOKENS).items():
        assert state.tensors[key].tobytes() == array.tobytes()
    assert [model.identity for model in client.models()] == [IDENTITY]


def test_a_generation_without_await(client):
    session = client.session(CountingEngine())
    result = session.generate(TOKENS, max_new_tokens=3)
    assert (result.route, result.tokens) == (Route.CLOUD, [12, 13, 14])
    stream = session.stream(TOKENS, max_new_tokens=3)
    assert [piece.token for piece in stream] == [12, 13, 14]
    assert stream.result.tokens == result.tokens


def test_a_stream_left_early_frees_its_sequence(client):
    engine = CountingEngine()
    with client.session(engine).stream(TOKENS, max_new_tokens=30) as stream:
        assert next(stream).token == 12
        assert engine.sequences
    assert engine.sequences == {}


def test_errors_are_the_same(cloud_elsewhere, quick):
    options = {"control_public_key": cloud_elsewhere.control_public_key, "tuning": quick}
    client = Client(cloud_elsewhere.endpoint, "pk_wrong", **options)
    with client, pytest.raises(PrefillCloudError, match="KEY_NOT_FOUND"):
        client.models()


def test_closing_ends_the_thread(cloud_elsewhere, quick):
    options = {"control_public_key": cloud_elsewhere.control_public_key, "tuning": quick}
    before = set(threading.enumerate())
    client = Client(cloud_elsewhere.endpoint, API_KEY, **options)
    client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    assert {t.name for t in set(threading.enumerate()) - before} >= {"prefill-cloud"}
    client.close()
    client.close()
    left = {t.name for t in set(threading.enumerate()) - before}
    assert "prefill-cloud" not in left
    with pytest.raises(PrefillCloudError, match="the client is closed"):
        client.models()


def test_a_callback_that_calls_the_client_again_is_refused(client):
    def again(_):
        client.models()

    with pytest.raises(PrefillCloudError, match="calls it again"):
        client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0, on_progress=again)


CONTROL_C = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from loopback_cloud import API_KEY, IDENTITY, SCHEMA, LoopbackCloud
from prefill_cloud import Client
from prefill_cloud.blocking import LoopThread

thread, cloud = LoopThread(), LoopbackCloud()
thread.run(cloud.__aenter__())
async def hold():
    cloud.faults.hold_chunks = asyncio.Event()
thread.run(hold())
with Client(cloud.endpoint, API_KEY, control_public_key=cloud.control_public_key) as client:
    try:
        interrupt = lambda _: os.kill(os.getpid(), signal.SIGINT)
        client.prefill(range(12), IDENTITY, SCHEMA, deadline_seconds=60.0, on_progress=interrupt)
    except KeyboardInterrupt:
        print("interrupted", [reason for _, _, reason in cloud.cancels])
    thread.run(cloud.all_closed())
    print("connections", cloud.open_connections)
thread.run(cloud.__aexit__())
thread.close()
"""


def test_control_c_cancels_and_cleans_up():
    command = [sys.executable, "-c", CONTROL_C, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["interrupted ['CANCELLED']", "connections 0"]
