"""A whole cloud in the test's process: the shipped gateway and worker on loopback sockets, real
spool and spill folders, a clock that tests move, and a backend that they hold."""

import asyncio
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace

import grpc
from prefill_cloud import AsyncClient
from prefill_cloud.clock import Backoff
from prefill_cloud.tuning import Tuning
from prefill_data.calls import CHANNEL_OPTIONS
from prefill_data.failpoints import Failpoints
from prefill_data.gateway import __main__ as gateway
from prefill_data.metering.spool import read_receipts
from prefill_data.settings import Address, GatewaySettings, WorkerSettings
from prefill_data.worker import __main__ as worker
from prefill_data.worker.attempts import AttemptBook, AttemptLimits
from prefill_data.worker.metrics import WorkerMetrics
from prefill_data.worker.prefill import Surroundings
from prefill_kernels.pack.policy import CodecSpeed, StatePart
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.pb import prefill_pb2_grpc
from prefill_wire.signing import SigningKey
from stand_in_backend import StandInBackend

CONTROL, WORKER = SigningKey.from_seed(b"c" * 32), SigningKey.from_seed(b"w" * 32)
FLEET_TOKEN = b"fleet-token-that-no-log-may-show!"
SPEEDS = {
    part: {
        "raw": CodecSpeed(20e9, 20e9, 1.0),
        "planes-zstd": CodecSpeed(0.3e9, 1e9, 1.4),
        "bf16": CodecSpeed(1e9, 1e9, 2.0),
        "int8-row": CodecSpeed(6e9, 8e9, 2.0),
        "hadamard-int8": CodecSpeed(0.5e9, 0.5e9, 3.9),
    }
    for part in StatePart
}
KEYS = {name: f"pk_test_{name}-not-for-logs" for name in ("acme", "bolt", "coda")}
LOOPBACK = Address("127.0.0.1", 0)
MIB = 1 << 20
QUICK = Tuning(
    call_seconds=5.0,
    stall_seconds=5.0,
    backoff=Backoff(first_seconds=0.001, most_seconds=0.01),
)


class MovableClock:
    """Unix milliseconds that go on by themselves, and further when a test says so."""

    def __init__(self):
        self.ahead_ms = 0

    def __call__(self):
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def advance(self, seconds):
        """`seconds` later; also backwards."""
        self.ahead_ms += int(seconds * 1000)


def write_keys(path, **changes):
    """A key file with one valid key a tenant; `acme={"status": "REVOKED"}` changes one."""
    entries = [
        {
            "key_id": f"key_{tenant}",
            "tenant": tenant,
            "sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "status": "VALID",
            **changes.get(tenant, {}),
        }
        for tenant, secret in KEYS.items()
    ]
    path.write_text(json.dumps({"keys": entries}), encoding="utf-8")


def bearer(tenant="acme"):
    """The metadata of a tenant's calls."""
    return (("authorization", f"Bearer {KEYS[tenant]}"),)


class Cloud:
    """One gateway and one worker; `settings` of both may be changed before they are started."""

    def __init__(self, folder, backend=None):
        self.folder, self.backend = folder, backend or StandInBackend()
        self.clock, self.stop = MovableClock(), asyncio.Event()
        for name in ("spool", "spill"):
            (folder / name).mkdir(exist_ok=True)
        self.key_file = folder / "keys.json"
        write_keys(self.key_file)
        self.random, self.failpoints = os.urandom, Failpoints({})
        self.worker_settings = WorkerSettings(
            worker_id="w1", datacenter="eu", listen=LOOPBACK, data_listen=LOOPBACK,
            metrics_listen=LOOPBACK, data_host="127.0.0.1", checkpoints={}, profile="fp32",
            key_seed=b"w" * 32, certificate=certificate(self.clock()), fleet_token=FLEET_TOKEN,
            spill_dir=folder / "spill", memory_cap_bytes=256 * MIB, stream_memory_bytes=MIB,
            max_connections=64, tls=None, failpoints="",
        )  # fmt: skip
        self.gateway_settings = GatewaySettings(
            gateway_id="g1", datacenter="eu", listen=LOOPBACK, metrics_listen=LOOPBACK,
            workers=(), peers=(), key_file=self.key_file, fleet_token=FLEET_TOKEN,
            spool_dir=folder / "spool", control_public_key=CONTROL.public_bytes,
            routing_threshold_tokens=4, lease_seconds=60, max_deadline_seconds=600,
            price_micros_per_million_tokens=1_000_000, connections=4, tls=None, failpoints="",
        )  # fmt: skip
        self._worker_stack, self._gateway_stack = AsyncExitStack(), AsyncExitStack()

    async def __aenter__(self):
        await self.start_worker()
        await self.start_gateway()
        return self

    async def __aexit__(self, *_):
        await self.stop_gateway()
        await self.stop_worker()

    async def start_worker(self):
        settings = self.worker_settings
        threads = ThreadPoolExecutor(2, "sealer")
        self._worker_stack.callback(threads.shutdown)
        around = Surroundings(
            worker_id=settings.worker_id, datacenter=settings.datacenter, signing=WORKER,
            threads=threads, failpoints=self.failpoints, random=self.random, codec_speeds=SPEEDS,
            now_ms=self.clock, clock=time.monotonic,
        )  # fmt: skip
        limits = AttemptLimits(
            settings.memory_cap_bytes, settings.stream_memory_bytes, settings.spill_dir
        )
        self.attempts, self.worker_metrics = AttemptBook(limits), WorkerMetrics()
        parts = worker.WorkerParts(
            around=around, backend=self.backend, book=self.attempts, metrics=self.worker_metrics
        )
        addresses = await worker.listen(settings, parts, self._worker_stack)
        self.worker_endpoint, self.data_endpoint = addresses["grpc"], addresses["data"]
        self.gateway_settings = replace(self.gateway_settings, workers=(self.worker_endpoint,))

    async def stop_worker(self):
        await self._worker_stack.aclose()

    async def start_gateway(self):
        """A gateway process's objects, new ones on the same folders."""
        stack, settings = self._gateway_stack, self.gateway_settings
        self.parts = gateway.make_parts(settings, self.stop, self.clock)
        stack.callback(self.parts.claims.close)
        stack.push_async_callback(self.parts.live.close)
        for link in self.parts.fleet.links:
            stack.push_async_callback(link.channel.close)
        await self.parts.fleet.look()
        self.endpoint = await gateway.listen(settings, self.parts, stack)
        self._channel = grpc.aio.insecure_channel(self.endpoint, CHANNEL_OPTIONS)
        stack.push_async_callback(self._channel.close)
        self.stub = prefill_pb2_grpc.PrefillGatewayStub(self._channel)

    async def stop_gateway(self):
        await self._gateway_stack.aclose()

    def sweep(self):
        """What both processes do again and again."""
        self.parts.end_overdue(self.clock())
        self.attempts.expire(self.clock())

    def client(self, tenant="acme", **options):
        """The SDK's client of this cloud; it asks for equal bytes unless a test says otherwise."""
        usual = {"tuning": QUICK, "codec_policy": "exact"}
        options = {"control_public_key": CONTROL.public_bytes, **usual, **options}
        return AsyncClient(self.endpoint, KEYS[tenant], **options)

    @property
    def receipts(self):
        """Records in the spool file."""
        return read_receipts(self.folder / "spool")


def certificate(now_ms, **changes):
    """The worker's certificate."""
    fields = {"worker_id": "w1", "datacenter": "eu", "public_key": WORKER.public_bytes,
              "not_before_ms": 0, "not_after_ms": now_ms + 10**10, **changes}  # fmt: skip
    return issue_certificate(CONTROL, WorkerCertificate(**fields))


def counted(counter, **labels):
    """The value of a prometheus counter."""
    return (counter.labels(**labels) if labels else counter)._value.get()


def spill_files(cloud):
    """What the spill folder holds by name: nothing, ever."""
    return list(cloud.worker_settings.spill_dir.iterdir())
