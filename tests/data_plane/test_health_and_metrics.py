"""Health services and /metrics answer, say what is held, and count what was refused."""

import resource
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hand_client import refused
from in_process_cloud import LOOPBACK, Cloud
from prefill_data.errors import DataPlaneError, SettingsError
from prefill_data.process import allow_descriptors, serve_metrics, until_stop
from prefill_data.settings import Address, Peer
from prefill_wire.status import StatusCode
from prometheus_client import start_http_server


@pytest.mark.parametrize("which", ["endpoint", "worker_endpoint"])
async def test_health_is_serving(cloud, which):
    async with grpc.aio.insecure_channel(getattr(cloud, which)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def scrape(registry):
    address = serve_metrics(LOOPBACK, registry)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read().decode()


async def test_metrics_tell_what_happened(cloud, customer, monkeypatch):
    gateway, worker = cloud.parts.metrics, cloud.worker_metrics
    gateway.watch(lambda: len(cloud.parts.fleet.live()), lambda: len(cloud.parts.book))
    worker.watch(lambda: cloud.attempts.reserved_bytes, lambda: len(cloud.attempts))
    hand = customer()
    await hand.claim(await hand.through())
    async with refused(StatusCode.EMPTY_PROMPT):
        await customer(key="other").open(token_count=1)
    served = []
    whole = start_http_server
    monkeypatch.setattr(
        "prefill_data.process.start_http_server", lambda *a: served.append(whole(*a)) or served[-1]
    )
    text, worker_text = scrape(gateway.registry), scrape(worker.registry)
    for server, thread in served:
        server.shutdown()
        server.server_close()
        thread.join()
    lines = (
        'opens_total{outcome="accept"} 1.0',
        'refusals_total{code="EMPTY_PROMPT"} 1.0',
        "receipts_total 1.0",
        "live_workers 1.0",
        "billed_tokens_total 20.0",
        "requests_held 1.0",
    )
    for line in lines:
        assert f"prefill_gateway_{line}" in text
    assert 'prefill_worker_attempts_total{outcome="finished"} 1.0' in worker_text
    assert "prefill_worker_tokens_total 20.0" in worker_text


async def test_a_port_in_use_is_named(cloud):
    port = int(cloud.endpoint.split(":")[1])
    with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
        serve_metrics(Address("127.0.0.1", port), cloud.parts.metrics.registry)


async def test_a_task_of_the_process_that_fails_ends_the_process(cloud, log_lines):
    async def failing():
        raise DataPlaneError(StatusCode.INTERNAL, "the sweep broke")

    until_stop(failing(), cloud.stop)
    await cloud.stop.wait()
    assert "the sweep broke" in log_lines.getvalue()


async def test_an_open_is_redirected_to_a_live_peer_alone(cloud, tmp_path, customer):
    folder = tmp_path / "peer"
    folder.mkdir()
    peer = Cloud(folder)
    async with peer, grpc.aio.insecure_channel(peer.endpoint) as channel:
        fleet = cloud.parts.fleet
        fleet.add_peer(Peer("us", peer.endpoint, 90.0), channel)
        async with refused(StatusCode.NO_DATACENTER):
            await customer().open(residency=["us"])  # it has not answered yet
        await fleet.look()
        answer = await customer().open(residency=["us"])
        assert answer.redirect.endpoint == peer.endpoint
        assert answer.redirect.datacenter == "us"
        assert (await customer().open()).WhichOneof("outcome") == "accept"
        assert len(cloud.parts.book) == 1
        await peer.stop_gateway()
        await fleet.look()
        async with refused(StatusCode.NO_DATACENTER):
            await customer(key="2").open(residency=["us"])


def test_a_process_may_hold_as_many_descriptors_as_its_user():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
