"""One prefill in the cloud, from Open to a verified state; everything ends by the deadline."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from prefill_wire.errors import WireError
from prefill_wire.expected import ExpectedState
from prefill_wire.limits import MAX_CONNECTIONS, SUPPORTED_WIRE_VERSIONS
from prefill_wire.pb import prefill_pb2
from prefill_wire.receiver import StateReceiver, VerifiedState
from prefill_wire.sealing import AttemptContext, AttemptKeys, OneTimeKey
from prefill_wire.status import StatusCode

from prefill_cloud.acceptance import check_accept, data_endpoint
from prefill_cloud.clock import Clock, Deadline
from prefill_cloud.connection import DataTarget
from prefill_cloud.download import Download, PrefillProgress
from prefill_cloud.errors import PrefillCloudError, error_for, refused_by_wire
from prefill_cloud.exchange import Exchange
from prefill_cloud.intake import Intake, decode_payload
from prefill_cloud.link import LinkEstimate
from prefill_cloud.logs import logger
from prefill_cloud.quality import allowed_codecs
from prefill_cloud.request import PrefillRequest
from prefill_cloud.state import PrefilledState
from prefill_cloud.timeline import Timeline
from prefill_cloud.tuning import Tuning


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Trust:
    """What a client holds the cloud to: the pinned key, and the roots of TLS."""

    control_public_key: bytes
    tls: Callable[[], ssl.SSLContext]


@dataclass(slots=True, kw_only=True, repr=False)
class Attempt:
    """Everything one attempt is made with; `run` it once. `request_id` is known once accepted."""

    exchange: Exchange
    request: PrefillRequest
    trust: Trust
    one_time_key: OneTimeKey
    deadline: Deadline
    connections: int
    threads: Executor
    link: LinkEstimate
    tuning: Tuning
    clock: Clock
    on_progress: Callable[[PrefillProgress], None] | None = None
    request_id: str = ""

    async def run(self) -> PrefilledState:
        """The verified state; raises `PrefillCloudError` and leaves nothing behind."""
        try:
            async with asyncio.timeout(self.deadline.left_seconds()) as patience:
                return await self._run(patience)
        except TimeoutError:
            message = "no verified state came by the deadline."
            raise error_for(StatusCode.DEADLINE_EXCEEDED, message, self.request_id) from None
        except WireError as error:
            raise refused_by_wire(error, self.request_id) from error
        except PrefillCloudError as error:
            error.request_id = error.request_id or self.request_id
            raise

    async def _run(self, patience: asyncio.Timeout) -> PrefilledState:
        started = self.clock.monotonic()
        message = self.request.open_message(
            one_time_public_key=self.one_time_key.public_bytes,
            link_bytes_per_second=self.link.bytes_per_second,
            deadline_ms=1,
        )
        gateway, accept = await self.exchange.open(message, self.deadline)
        self.request_id = accept.request_id[:256]
        log = logger(self.request_id)
        log.info("accepted", attempt=accept.attempt, datacenter=accept.datacenter)
        try:
            state = await self._accepted(gateway, accept, started)
        except BaseException as error:
            reason = str(_code_of(error, patience))
            log.info("given_up", reason=reason)
            await gateway.cancel(accept.request_id, accept.attempt, reason)
            raise
        log.info("prefilled", bytes_sent=state.bytes_sent, amount_micros=state.amount_micros)
        return state

    async def _accepted(
        self, gateway: Exchange, accept: prefill_pb2.Accept, started: float
    ) -> PrefilledState:
        check_accept(accept, self.request, self.trust.control_public_key, self.clock.unix_ms())
        lease = Deadline.after(self.clock, accept.lease_seconds)
        context = AttemptContext(
            accept.request_id, accept.attempt, accept.tenant, self.request.digest()
        )
        envelope = await gateway.prompt(accept, self.request.tokens, self.deadline)
        keys = AttemptKeys.derive(self.one_time_key.open_envelope(envelope, context), context)
        handshake = self.clock.monotonic() - started
        receiver = self._receiver(accept, context, keys)
        state_bytes = self.request.schema.nbytes(self.request.token_count - 1)
        intake = Intake(receiver, state_bytes, self.threads)
        try:
            download = self._download(accept, keys, intake)
            usable = min(accept.max_connections, MAX_CONNECTIONS, self.connections)
            count = await download.run(max(1, usable))
            downloaded = self.clock.monotonic()
            self.link.measured(download.wire_bytes, download.wire_seconds)
            claim = await self._claim(gateway, accept, receiver.root(), count, lease=lease)
            claim_seconds = self.clock.monotonic() - downloaded
            now_ms = self.clock.unix_ms()
            state = await intake.close(claim.sealed_manifest, claim.receipt, now_ms)
        except BaseException:
            intake.abandon()
            raise
        times = Timeline(
            handshake=handshake,
            wire=download.wire_seconds,
            open=intake.open_seconds,
            claim=claim_seconds,
            total=self.clock.monotonic() - started,
        )
        return _prefilled(state, claim.amount_micros, times)

    async def _claim(
        self,
        gateway: Exchange,
        accept: prefill_pb2.Accept,
        root: bytes,
        count: int,
        *,
        lease: Deadline,
    ) -> prefill_pb2.ClaimResponse:
        message = prefill_pb2.ClaimRequest(
            request_id=accept.request_id, attempt=accept.attempt, root=root, chunk_count=count
        )
        until = min(lease, self.deadline, key=lambda each: each.at_seconds)
        claim = await gateway.claim(message, until)
        if claim.amount_micros > accept.price_bound_micros:
            bound = accept.price_bound_micros
            text = f"{claim.amount_micros} micros were charged, {bound} is the bound."
            raise error_for(StatusCode.RECEIPT_REFUSED, text, accept.request_id)
        return claim

    def _receiver(
        self, accept: prefill_pb2.Accept, context: AttemptContext, keys: AttemptKeys
    ) -> StateReceiver:
        identity = self.request.identity
        expected = ExpectedState(
            context=context,
            schema=self.request.schema,
            token_count=self.request.token_count,
            model_fingerprint=identity.fingerprint,
            tokenizer_fingerprint=identity.tokenizer_fingerprint,
            numerics_profile=identity.numerics_profile,
            one_time_key_hash=self.one_time_key.key_hash,
            offered_wire_versions=SUPPORTED_WIRE_VERSIONS,
            offered_codecs=self.request.offered_codecs,
            codec_policy=self.request.codec_policy,
            allowed_codecs=allowed_codecs(self.request.codec_policy),
            fencing_epoch=accept.fencing_epoch,
            worker_id=accept.worker_id,
            worker_certificate=accept.worker_certificate,
            control_public_key=self.trust.control_public_key,
        )
        return StateReceiver(expected, keys, decode_payload, self.request.buffers)

    def _download(self, accept: prefill_pb2.Accept, keys: AttemptKeys, intake: Intake) -> Download:
        tls = self.trust.tls() if accept.data_tls else None
        target = DataTarget(data_endpoint(accept), tls, accept.capability, keys.connection)
        return Download(
            target,
            intake,
            tuning=self.tuning,
            clock=self.clock,
            request_id=accept.request_id,
            on_progress=self.on_progress,
        )


def _code_of(error: BaseException, patience: asyncio.Timeout) -> StatusCode:
    """Why an attempt is given up, in a word that the gateway may log."""
    if isinstance(error, PrefillCloudError | WireError):
        return error.code
    if isinstance(error, asyncio.CancelledError):
        return StatusCode.DEADLINE_EXCEEDED if patience.expired() else StatusCode.CANCELLED
    return StatusCode.INTERNAL


def _prefilled(state: VerifiedState, amount_micros: int, measured: Timeline) -> PrefilledState:
    """The verified state with its bill, and the worker's times beside those measured here."""
    bill = state.receipt
    times = replace(
        measured,
        queue=bill.queue_us / 1e6,
        prefill=bill.prefill_us / 1e6,
        encode=bill.encode_us / 1e6,
    )
    return PrefilledState(
        tensors=state.tensors,
        manifest=state.manifest,
        receipt=bill,
        amount_micros=amount_micros,
        datacenter=bill.datacenter,
        timeline=times,
    )
