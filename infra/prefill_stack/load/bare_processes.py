"""A worker and a gateway of gRPC alone: `bare_calls` and `bare_streams` are what they answer.

`python -m prefill_stack.load.bare_processes` is one of them, a worker or, told of a worker by
`PREFILL_WORKERS`, its gateway.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import grpc

from prefill_stack.load.bare_calls import (
    GATEWAY,
    WORKER,
    BareWithWorker,
    Handlers,
    gateway_calls,
    worker_calls,
)
from prefill_stack.load.bare_streams import BareStream, gateway_stream, worker_stream
from prefill_stack.supervisor import Child, ProcessPlan, Supervisor


@contextmanager
def bare_processes(folder: Path) -> Iterator[tuple[Child, Child]]:
    """A worker and a gateway before it, as long as the context lasts."""
    with Supervisor() as children:
        name = "prefill_stack.load.bare_processes"
        log = folder / "bare.log"
        worker = children.start(ProcessPlan("bare worker", name, {}, log))
        known = {"PREFILL_WORKERS": worker.address("grpc")}
        yield worker, children.start(ProcessPlan("bare gateway", name, known, log))


def _gateway(worker: str) -> Handlers:
    channel = grpc.aio.insecure_channel(worker)
    link = cache(lambda: BareStream(channel, WORKER))  # once there is a loop that asks
    return gateway_calls(BareWithWorker(channel)) | gateway_stream(link)


async def _serve() -> None:
    server, known = grpc.aio.server(), os.environ.get("PREFILL_WORKERS")
    name = GATEWAY if known else WORKER
    handlers = _gateway(known) if known else worker_calls() | worker_stream()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(json.dumps({"ready": True, "grpc": f"127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
