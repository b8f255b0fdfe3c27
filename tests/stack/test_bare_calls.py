"""The bare calls: both ways end, and the gateway's one goes by way of its worker."""

import grpc
import pytest
from prefill_stack.load.bare_calls import BareThroughGateway, BareWithWorker, bare_processes


async def test_bare_calls_go_through_both_processes(tmp_path):
    with bare_processes(tmp_path) as (worker, gateway):
        async with (
            grpc.aio.insecure_channel(gateway.address("grpc")) as through,
            grpc.aio.insecure_channel(worker.address("grpc")) as direct,
        ):
            await BareWithWorker(direct)(0)
            await BareThroughGateway(through)(0)
            worker.process.kill()
            worker.process.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await BareThroughGateway(through)(1)
