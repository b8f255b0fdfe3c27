"""The workers and the other datacenters as this gateway sees them now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prefill_fleet.pb import fleet_pb2, fleet_pb2_grpc
from prefill_wire.certificate import WorkerCertificate, verify_certificate
from prefill_wire.errors import IdentityError, WireError
from prefill_wire.identity import ModelIdentity, difference
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.fleet_token import fleet_metadata
from prefill_data.refusals import parse_refusal
from prefill_data.router.choose import DatacenterView
from prefill_data.settings import Peer

log = structlog.get_logger()
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What a worker told last, its certificate verified."""

    said: fleet_pb2.DescribeResponse
    certificate: WorkerCertificate

    def model(self, name: str) -> fleet_pb2.ServedModel | None:
        """The model that it serves under this name."""
        return next((model for model in self.said.models if model.name == name), None)

    @property
    def load(self) -> tuple[int, int, str]:
        """Order of preference: few attempts, much free memory."""
        return (self.said.attempts_in_flight, self.said.memory_used_bytes, self.said.worker_id)


class WorkerLink:
    """One worker's channel; `view` is None while it does not answer."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel, fleet_token: bytes) -> None:
        self.endpoint, self.channel = endpoint, channel
        self.stub = fleet_pb2_grpc.PrefillWorkerStub(channel)
        self.run_whole = run_whole(channel)
        self.metadata = fleet_metadata(fleet_token)
        self.view: WorkerView | None = None

    async def admit(self, request: fleet_pb2.AdmitRequest) -> bytes:
        """The capability of a new attempt; the worker's refusal, or WORKER_LOST."""
        try:
            answer = await self.stub.Admit(request, metadata=self.metadata, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise parse_refusal(error, f"worker {self.endpoint} does not answer") from None
        return bytes(answer.capability)

    async def release(self, over: Sequence[fleet_pb2.AttemptName]) -> None:
        """Free attempts; a worker that is gone has freed them already."""
        request = fleet_pb2.ReleaseRequest(over=over)
        try:
            await self.stub.Release(request, metadata=self.metadata, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            log.info("release", endpoint=self.endpoint, status=error.code().name,
                     request_ids=[each.request_id for each in over])  # fmt: skip
        except grpc.aio.UsageError:
            log.info("release", endpoint=self.endpoint, status="this gateway ends")


def run_whole(channel: grpc.aio.Channel) -> Any:
    """`Run` for a prompt that is one part: the same bytes as the stream, in fewer operations."""
    return channel.unary_stream(
        "/prefill.fleet.v1.PrefillWorker/Run",
        request_serializer=fleet_pb2.RunPart.SerializeToString,
        response_deserializer=fleet_pb2.RunEvent.FromString,
    )


class Fleet:
    """Looks at every worker and peer once a second."""

    def __init__(
        self,
        links: Sequence[WorkerLink],
        datacenter: str,
        control_public_key: bytes,
        now_ms: Callable[[], int],
    ) -> None:
        self.links, self.datacenter = tuple(links), datacenter
        self._control, self._now_ms = control_public_key, now_ms
        self._peers: dict[str, tuple[Peer, grpc.aio.Channel, bool]] = {}

    def add_peer(self, peer: Peer, channel: grpc.aio.Channel) -> None:
        """Another datacenter to redirect to; not live until it answered."""
        self._peers[peer.datacenter] = (peer, channel, False)

    async def look(self) -> None:
        """One look at all of them."""
        await asyncio.gather(
            *(self._describe(link) for link in self.links),
            *(self._probe(name) for name in self._peers),
        )

    async def watch(self) -> None:
        """Look for as long as the process runs."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _describe(self, link: WorkerLink) -> None:
        try:
            said = await link.stub.Describe(
                fleet_pb2.DescribeRequest(), metadata=link.metadata, timeout=ANSWER_SECONDS
            )
            certificate = verify_certificate(self._control, said.certificate, self._now_ms())
            if (certificate.worker_id, certificate.datacenter) != (said.worker_id, self.datacenter):
                raise IdentityError(f"{link.endpoint} has the certificate of another worker")
            fresh = WorkerView(said, certificate)
        except (grpc.aio.AioRpcError, WireError) as error:
            if link.view is not None or isinstance(error, WireError):
                log.warning("worker lost", endpoint=link.endpoint, reason=str(error)[:200])
            link.view = None
            return
        link.view = fresh

    async def _probe(self, name: str) -> None:
        peer, channel, _ = self._peers[name]
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
            live = answer.status == health_pb2.HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError:
            live = False
        self._peers[name] = (peer, channel, live)

    def live(self) -> list[WorkerLink]:
        """Workers that answered the last look."""
        return [link for link in self.links if link.view is not None]

    def datacenters(self) -> list[DatacenterView]:
        """This datacenter first, then the others."""
        here = DatacenterView(self.datacenter, "", 0.0, bool(self.live()))
        peers = self._peers.items()
        return [here, *(DatacenterView(n, p.endpoint, p.rtt_ms, up) for n, (p, _, up) in peers)]

    def serving(self, identity: ModelIdentity) -> list[WorkerLink]:
        """Live workers with exactly this model, the least loaded first; UNKNOWN_MODEL or
        MODEL_MISMATCH when there is none."""
        pairs = [(link, link.view) for link in self.links if link.view is not None]
        same = [(link, view) for link, view in pairs if _serves(view, identity)]
        if not same:
            raise self._not_served([view for _, view in pairs], identity)
        return [link for link, _ in sorted(same, key=lambda pair: pair[1].load)]

    def _not_served(self, views: Sequence[WorkerView], identity: ModelIdentity) -> DataPlaneError:
        models = (view.model(identity.name) for view in views)
        named = next((model for model in models if model is not None), None)
        found = named and difference(served_identity(named).parts, identity.parts)
        if found:
            part, served, wanted = found
            return DataPlaneError(
                StatusCode.MODEL_MISMATCH,
                f"{identity.name}: {part} {served} served, {wanted} asked for",
            )
        known = sorted({model.name for view in views for model in view.said.models})
        return DataPlaneError(
            StatusCode.UNKNOWN_MODEL,
            f"model {identity.name[:64]!r} is not served in {self.datacenter}; "
            f"served are {', '.join(known) or 'none'}",
        )


def served_identity(model: fleet_pb2.ServedModel) -> ModelIdentity:
    """Who a worker says that a model of its is."""
    return ModelIdentity(
        model.name, model.fingerprint, model.tokenizer_fingerprint, model.numerics_profile
    )


def _serves(view: WorkerView, asked: ModelIdentity) -> bool:
    model = view.model(asked.name)
    return model is not None and served_identity(model) == asked
