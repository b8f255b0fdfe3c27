"""What the platform's benches measure with: latencies that count from when a call was due."""

import asyncio
import signal
import subprocess
from dataclasses import replace

import pytest
from prefill_cloud import PrefillCloudError
from prefill_stack import cli
from prefill_stack.benches import gateway, names
from prefill_stack.benches import recovery as recovery_bench
from prefill_stack.benches import up as up_bench
from prefill_stack.errors import ProcessFailed
from prefill_stack.load.crowd import CrowdPlan
from prefill_stack.load.http import Lines, Refused, request
from prefill_stack.load.open_loop import Measured, Offered, closed_loop, open_loop
from prefill_stack.load.over_grant import BURST, Hammered
from prefill_stack.load.recovery import recovery
from prefill_stack.platform.keeper import Keeper, Kept
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.status import StatusCode


def test_the_benches_are_known():
    assert {"api", "gateway", "recovery", "up"} <= set(names())


def test_arrivals_are_as_many_as_offered_and_the_same_every_time():
    offered = Offered(per_second=200, seconds=5)
    moments = offered.moments()
    assert len(moments) == 1000
    assert moments == sorted(moments) == offered.moments()
    assert moments != replace(offered, seed=8).moments()


async def test_a_server_that_falls_behind_cannot_hide_it():
    lock = asyncio.Lock()

    async def slow(_number):
        async with lock:
            await asyncio.sleep(0.02)

    closed = await closed_loop(1, 20, slow)
    opened = await open_loop(Offered(per_second=1000, seconds=0.1), slow)
    assert len(opened.latencies) == 100
    assert opened.quantile_ms(0.99) > 5 * closed.quantile_ms(0.5)


def test_quantiles_are_milliseconds():
    measured = Measured([n / 1000 for n in range(101)], took_seconds=2.0)
    assert (measured.quantile_ms(0.5), measured.quantile_ms(0.99)) == (50.0, 99.0)
    assert measured.per_second == 50.5


def test_grants_beyond_the_limit_are_seen():
    assert Hammered(moments=[0.0] * BURST).over_grant() == 0
    assert Hammered(moments=[0.0] * (BURST + 1)).over_grant() == pytest.approx(1 / BURST)


async def test_another_answer_than_200_ends_a_bench():
    async def answer(reader, writer):
        for status in (b"200 OK", b"404 Not Found"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Lines("127.0.0.1", port, 1) as lines:
        assert await lines.ask(request("GET", "/", "secret")) == b"{}"
        with pytest.raises(Refused, match="404"):
            await lines.ask(request("GET", "/", "secret"))
    server.close()


class Killable:
    """A part of the platform that is a process of the test's."""

    def __init__(self, name):
        self.name, self.process = name, subprocess.Popen(["sleep", "600"])
        self.pid = self.process.pid


async def test_a_recovery_lasts_until_what_was_killed_serves_again():
    part, asked, other = Killable("control"), [], Killable("redis")
    keeper = Keeper(say=lambda line: None, kept=[Kept(other), Kept(part)])

    async def serve():
        asked.append(part.process.wait(timeout=10))
        if len(asked) < 3:
            raise PrefillCloudError(StatusCode.WORKER_LOST, "not yet")

    try:
        assert await recovery(keeper, "control", serve) > 0
        assert asked == [-signal.SIGKILL] * 3
        assert other.process.poll() is None  # the twin: nothing else was killed
    finally:
        other.process.kill()
        other.process.wait()


def test_a_bench_whose_start_fails_leaves_no_service_s_home(monkeypatch):
    made = []

    def fails(folder):
        made.append(Redis(RedisPlan(folder / "redis"))._home)
        raise ProcessFailed("no memory", "make room")

    monkeypatch.setattr(up_bench, "_start", fails)
    with pytest.raises(ProcessFailed):
        up_bench.run()
    assert [home.exists() for home in made] == [False]


def test_a_bench_that_is_terminated_ends_as_by_ctrl_c(monkeypatch):
    ended = []

    def measured():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append(True)

    monkeypatch.setattr("prefill_stack.benches.load", lambda name: measured)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.run(["bench", "codec", "--json"]) == cli.INTERRUPTED_EXIT_CODE
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [True]


@pytest.mark.nightly
def test_the_recovery_bench_kills_every_part():
    found = recovery_bench.run()
    parts = {"control_plane_seconds", "postgres_seconds", "redis_seconds", "gateway_seconds"}
    assert all(found[name] > 0 for name in parts)


@pytest.mark.nightly
def test_the_gateway_bench_measures_both_sides():
    found = gateway.run((10.0,), 1.0, 1)
    assert found["gateway_p50_ms"] > found["direct_p50_ms"] > 0
    assert found["overhead_p50_ms"] == pytest.approx(
        found["gateway_p50_ms"] - found["direct_p50_ms"], abs=0.01
    )


@pytest.mark.nightly
def test_the_api_bench_answers_every_question():
    from prefill_stack.benches import api

    found = api.run(CrowdPlan(tenants=50, receipts=5_000))
    asked = {"key_checks_per_second", "key_check_p99_ms", "list_p99_ms", "usage_p99_ms"}
    assert all(found[name] > 0 for name in asked)
    assert 0 < found["snapshot_change_p50_seconds"] <= found["snapshot_change_p99_seconds"]
    assert 0 <= found["over_grant_fraction"] <= 1
