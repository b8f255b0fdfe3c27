"""One attempt from prompt to signed manifest: backend -> sealer -> store, then the closing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from prefill_wire.digests import key_hash, prompt_digest
from prefill_wire.ids import Random, new_receipt_id
from prefill_wire.limits import WIRE_VERSION
from prefill_wire.manifest import StateManifest
from prefill_wire.producer import Finished, ProducerKeys, StateProducer
from prefill_wire.receipt import UsageReceipt
from prefill_wire.sealing import KEY_BYTES, AttemptKeys, Envelope, seal_envelope
from prefill_wire.signing import SigningKey
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.failpoints import Failpoints
from prefill_data.worker.attempts import Admission, Attempt
from prefill_data.worker.backend import ModelCapability, PrefillBackend, PrefillJob, PrefillTimes
from prefill_data.worker.codecs import Speeds
from prefill_data.worker.sealer import Bench, Sealer


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker is and has; time and randomness come from here alone."""

    worker_id: str
    datacenter: str
    signing: SigningKey
    threads: Executor
    failpoints: Failpoints
    codec_speeds: Speeds
    random: Random
    now_ms: Callable[[], int]
    clock: Callable[[], float]


class AttemptRun:
    """Holds one attempt's secrets while it runs."""

    def __init__(self, attempt: Attempt, model: ModelCapability, around: Surroundings) -> None:
        self._attempt, self._model, self._around = attempt, model, around
        self._started_ms = around.now_ms()
        secret = around.random(KEY_BYTES)
        context = attempt.admission.context
        keys = AttemptKeys.derive(secret, context)
        producer_keys = ProducerKeys(keys, around.random(KEY_BYTES), around.signing)
        self._producer = StateProducer(context, producer_keys)
        self.envelope: Envelope = seal_envelope(
            attempt.admission.one_time_public_key, secret, context
        )
        attempt.connection_key = keys.connection

    async def run(self, backend: PrefillBackend, tokens: np.ndarray) -> Finished:
        """Prefill, seal, sign. The state stays in the attempt's store; raises `DataPlaneError`."""
        admission, around = self._attempt.admission, self._around
        bench = Bench(around.threads, around.clock, around.failpoints)
        sealer = Sealer(self._producer, self._attempt.store, admission.codecs, bench)
        sealer.state_tokens = admission.token_count - 1
        self._attempt.progress = lambda: sealer.done_tokens
        job_id = f"{admission.request_id}/{admission.attempt}"
        job = PrefillJob(job_id, admission.tenant, admission.model, tokens)
        times = await backend.submit(job, sealer)
        tensors = sealer.tensors(self._model.schema)
        receipt = self._receipt(times, sealer.encode_us)
        finished = self._producer.finish(tensors, self._manifest(), receipt)
        around.failpoints.hit("worker.before_finish")
        self._attempt.store.add(finished.leaf_table.header, finished.leaf_table.ciphertext)
        self._attempt.store.finish()
        return finished

    def _manifest(self) -> StateManifest:
        """Everything that binds the state; the producer fills in what only it knows."""
        admission, identity = self._attempt.admission, self._model.identity
        return StateManifest(
            wire_version=WIRE_VERSION,
            offered_wire_versions=admission.offered_wire_versions,
            offered_codecs=admission.offered_codecs,
            codec_policy=admission.codec_policy,
            request_id=admission.request_id,
            attempt=admission.attempt,
            fencing_epoch=admission.fencing_epoch,
            expires_at_ms=admission.expires_at_ms,
            tenant=admission.tenant,
            worker_id=self._around.worker_id,
            one_time_key_hash=key_hash(admission.one_time_public_key),
            model_fingerprint=identity.fingerprint,
            tokenizer_fingerprint=identity.tokenizer_fingerprint,
            numerics_profile=identity.numerics_profile,
            prompt_digest=admission.prompt_digest,
            token_count=admission.token_count,
            state_tokens=admission.token_count - 1,
            tensors=(),
            chunk_count=0,
            leaf_table_digest=b"",
            root=b"",
            close_key=b"",
            receipt_id="",
        )

    def _receipt(self, times: PrefillTimes, encode_us: int) -> UsageReceipt:
        admission, around = self._attempt.admission, self._around
        return UsageReceipt(
            receipt_id=new_receipt_id(around.random),
            request_id=admission.request_id,
            attempt=admission.attempt,
            fencing_epoch=admission.fencing_epoch,
            tenant=admission.tenant,
            key_id=admission.key_id,
            model=admission.model,
            model_fingerprint=self._model.identity.fingerprint,
            datacenter=around.datacenter,
            worker_id=around.worker_id,
            token_count=admission.token_count,
            cached_tokens=0,
            state_bytes_raw=0,
            state_bytes_sent=0,
            root=b"",
            started_at_ms=self._started_ms,
            finished_at_ms=around.now_ms(),
            queue_us=times.queue_us,
            prefill_us=times.prefill_us,
            encode_us=encode_us,
        )


def check_prompt(admission: Admission, model: ModelCapability, data: bytes) -> np.ndarray:
    """The tokens (uint32 `[N]`) when they are the ones that were opened; ids are never named."""
    if len(data) != 4 * admission.token_count:
        raise DataPlaneError(
            StatusCode.PROMPT_MISMATCH,
            f"the prompt has {len(data)} bytes, {admission.token_count} tokens have "
            f"{4 * admission.token_count}",
        )
    if prompt_digest(data) != admission.prompt_digest:
        raise DataPlaneError(
            StatusCode.PROMPT_MISMATCH, "the prompt's digest is not the one that was opened"
        )
    tokens = np.frombuffer(data, "<u4")
    wrong = np.flatnonzero(tokens >= model.vocab_size)
    if len(wrong):
        raise DataPlaneError(
            StatusCode.TOKEN_OUT_OF_RANGE,
            f"{len(wrong)} token ids, the first at position {wrong[0]}, are not below "
            f"{model.vocab_size}",
        )
    return tokens
