"""Bare calls and bare streams: both ways end, and the gateway's one goes by way of its worker."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from prefill_stack.load.bare_calls import GATEWAY, WORKER, BareThroughGateway, BareWithWorker
from prefill_stack.load.bare_processes import bare_processes
from prefill_stack.load.bare_streams import BareStream, StreamThroughGateway, StreamWithWorker


@asynccontextmanager
async def both(folder):
    with bare_processes(folder) as (worker, gateway):
        async with (
            grpc.aio.insecure_channel(gateway.address("grpc")) as through,
            grpc.aio.insecure_channel(worker.address("grpc")) as direct,
        ):
            yield worker.process, through, direct


async def test_bare_calls_go_through_both_processes(tmp_path):
    async with both(tmp_path) as (worker, through, direct):
        await BareWithWorker(direct)(0)
        await BareThroughGateway(through)(0)
        worker.kill()
        worker.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await BareThroughGateway(through)(1)


async def test_bare_streams_go_through_both_processes(tmp_path):
    async with both(tmp_path) as (worker, through, direct):
        streams = BareStream(through, GATEWAY), BareStream(direct, WORKER)
        with_gateway, with_worker = StreamThroughGateway(streams[0]), StreamWithWorker(streams[1])
        async with asyncio.TaskGroup() as many:  # they share a stream and mix no answers up
            for number in range(20):
                many.create_task(with_gateway(number))
                many.create_task(with_worker(number))
        worker.kill()
        worker.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            await with_gateway(20)
        for stream in streams:
            await stream.close()
