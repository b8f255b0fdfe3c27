"""What an attempt is admitted with: its terms, as its worker and its caller are told them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefill_fleet.pb import fleet_pb2
from prefill_wire.limits import MAX_CONNECTIONS, WIRE_VERSION
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.callers import KeySource
from prefill_data.gateway.fleet import WorkerView
from prefill_data.gateway.keys import ApiKey
from prefill_data.gateway.requests import Admitted, Request
from prefill_data.gateway.terms import Terms, codecs_of, rates_of
from prefill_data.metering.record import amount_micros

HINT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningRules:
    """What this gateway grants; `epoch` fences whatever an earlier run of it left."""

    epoch: int
    lease_seconds: int
    max_deadline_seconds: int
    routing_threshold_tokens: int
    connections: int

    def hint(self) -> prefill_pb2.PolicyHint:
        """The threshold that SDKs decide by, and how long it holds."""
        return prefill_pb2.PolicyHint(
            routing_threshold_tokens=self.routing_threshold_tokens, valid_seconds=HINT_SECONDS
        )


class Admissions:
    """The terms of attempts at this gateway's workers."""

    def __init__(
        self, rules: OpeningRules, keys: KeySource, datacenter: str, now_ms: Callable[[], int]
    ) -> None:
        self._rules, self._keys, self._datacenter = rules, keys, datacenter
        self._now_ms = now_ms

    def terms(
        self, view: WorkerView, key: ApiKey, asked: prefill_pb2.OpenRequest, request: Request
    ) -> Admitted:
        """What the attempt may cost and take; refuses what the model or the cap does not allow."""
        model = view.model(asked.model.name)
        if model is None:
            raise DataPlaneError(StatusCode.WORKER_LOST, f"{asked.model.name} left meanwhile")
        if asked.token_count > model.max_tokens:
            raise DataPlaneError(
                StatusCode.PROMPT_TOO_LONG,
                f"{asked.token_count} tokens, {model.name} takes {model.max_tokens}",
            )
        now_ms, rules, terms = self._now_ms(), self._rules, self._keys.terms(key)
        rates = rates_of(terms, asked.model.name, now_ms)
        bound = amount_micros(asked.token_count, 0, rates)
        _check_cap(terms, asked, bound)
        deadline_at_ms = now_ms + min(asked.deadline_ms, 1000 * rules.max_deadline_seconds)
        # What is signed after its worker's certificate has ended is counted by nobody.
        deadline_at_ms = min(deadline_at_ms, view.certificate.not_after_ms)
        return Admitted(
            request_id=request.request_id,
            attempt=request.attempts + 1,
            tenant=key.tenant,
            key_id=key.key_id,
            fencing_epoch=rules.epoch,
            token_count=asked.token_count,
            model=model,
            codecs=codecs_of(terms, model.name),
            certificate=view.certificate,
            price_bound_micros=bound,
            rates=rates,
            deadline_at_ms=deadline_at_ms,
            expires_at_ms=deadline_at_ms + 1000 * rules.lease_seconds,
        )

    def request(self, admitted: Admitted, asked: prefill_pb2.OpenRequest) -> fleet_pb2.AdmitRequest:
        """What the worker is told."""
        return fleet_pb2.AdmitRequest(
            request_id=admitted.request_id,
            attempt=admitted.attempt,
            fencing_epoch=admitted.fencing_epoch,
            tenant=admitted.tenant,
            key_id=admitted.key_id,
            model=asked.model.name,
            model_fingerprint=asked.model.fingerprint,
            tokenizer_fingerprint=asked.model.tokenizer_fingerprint,
            numerics_profile=asked.model.numerics_profile,
            token_count=admitted.token_count,
            prompt_digest=asked.prompt_digest,
            one_time_public_key=asked.one_time_public_key,
            offered_wire_versions=asked.wire_versions,
            offered_codecs=asked.codecs,
            allowed_codecs=admitted.codecs,
            codec_policy=asked.codec_policy,
            link_bytes_per_second=asked.link_bytes_per_second,
            wire_version=WIRE_VERSION,
            max_connections=min(self._rules.connections, MAX_CONNECTIONS),
            deadline_ms=max(0, admitted.deadline_at_ms - self._now_ms()),
            lease_seconds=self._rules.lease_seconds,
        )

    def accept(self, admitted: Admitted, view: WorkerView, capability: bytes) -> prefill_pb2.Accept:
        """What the caller is told."""
        return prefill_pb2.Accept(
            request_id=admitted.request_id,
            attempt=admitted.attempt,
            tenant=admitted.tenant,
            datacenter=self._datacenter,
            worker_id=view.said.worker_id,
            worker_certificate=view.said.certificate,
            wire_version=WIRE_VERSION,
            data_endpoint=view.said.data_endpoint,
            data_tls=view.said.data_tls,
            capability=capability,
            max_connections=min(self._rules.connections, MAX_CONNECTIONS),
            price_bound_micros=admitted.price_bound_micros,
            lease_seconds=max(0, admitted.expires_at_ms - self._now_ms()) // 1000,
            fencing_epoch=admitted.fencing_epoch,
            policy_hint=self._rules.hint(),
        )


def _check_cap(terms: Terms, asked: prefill_pb2.OpenRequest, bound_micros: int) -> None:
    cap = terms.price_cap_micros(asked.max_price_micros)
    if 0 < cap < bound_micros:
        raise DataPlaneError(
            StatusCode.PRICE_CAP_EXCEEDED,
            f"the price is up to {bound_micros} micros, the cap is {cap}",
        )
