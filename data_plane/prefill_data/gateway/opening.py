"""Open: check what is asked, choose where, admit one attempt. The prompt is not here yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from prefill_fleet.pb import fleet_pb2
from prefill_wire.codecs import Codec, choose
from prefill_wire.digests import DIGEST_BYTES
from prefill_wire.identity import ModelIdentity
from prefill_wire.ids import Random, new_request_id
from prefill_wire.limits import BLOCK_SIZE_TOKENS, MAX_CONNECTIONS, MAX_TEXT_BYTES, WIRE_VERSION
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.billed import Billed
from prefill_data.gateway.callers import KeySource
from prefill_data.gateway.fleet import Fleet, WorkerLink
from prefill_data.gateway.keys import ApiKey
from prefill_data.gateway.releases import Releases
from prefill_data.gateway.requests import Admitted, GatewayAttempt, Request, RequestBook
from prefill_data.gateway.terms import choose_place, rates_of
from prefill_data.limits.limiter import Limiter, Permit
from prefill_data.metering.record import amount_micros

MAX_NAMES = 32
MAX_KEY_CHARACTERS = 128
HINT_SECONDS = 60
_PROBE = X25519PrivateKey.from_private_bytes(bytes(32))  # any key: clamping sets its bits


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


class Opener:
    """Turns an OpenRequest into Accept, UseLocal or Redirect, or raises `DataPlaneError`."""

    def __init__(
        self,
        fleet: Fleet,
        book: RequestBook,
        rules: OpeningRules,
        now_ms: Callable[[], int],
        random: Random,
        *,
        keys: KeySource,
        limiter: Limiter,
        again: Callable[[Billed], Awaitable[prefill_pb2.Accept]],
    ) -> None:
        """`again` answers the Open of what is billed: what it answered before."""
        self._fleet, self._book, self._rules = fleet, book, rules
        self._keys, self._limiter, self._again = keys, limiter, again
        self._now_ms, self._random = now_ms, random
        self._releases = Releases()

    def new_id(self) -> str:
        """A request id for a call that is about to be looked at: refusals carry it too."""
        return new_request_id(self._random)

    async def open(
        self, key: ApiKey, asked: prefill_pb2.OpenRequest, fresh_id: str
    ) -> tuple[str, prefill_pb2.OpenResponse]:
        """The request's id, `fresh_id` unless it was opened before, and the outcome."""
        check_open(asked)
        digest = body_digest(asked)
        known = self._book.same(key.tenant, asked.idempotency_key, digest)
        if isinstance(known, Billed):  # whoever serves it now, and whatever it would cost today
            return known.request_id, prefill_pb2.OpenResponse(accept=await self._again(known))
        terms = self._keys.terms(key)
        rates_of(terms, asked.model.name, self._now_ms())
        if asked.local_prefix_tokens >= asked.token_count - 1:
            reason = f"{asked.local_prefix_tokens} of {asked.token_count} tokens are local already"
            local = prefill_pb2.UseLocal(reason=reason, policy_hint=self._rules.hint())
            return fresh_id, prefill_pb2.OpenResponse(use_local=local)
        views = self._fleet.datacenters()
        place = choose_place(terms, views, list(asked.datacenters), list(asked.residency))
        if place.name != self._fleet.datacenter:
            redirect = prefill_pb2.Redirect(datacenter=place.name, endpoint=place.endpoint)
            return fresh_id, prefill_pb2.OpenResponse(redirect=redirect)
        accept = await self._accept_for(
            key, asked, Request(fresh_id, key.tenant, asked.idempotency_key, digest)
        )
        return accept.request_id, prefill_pb2.OpenResponse(accept=accept)

    async def settle(self) -> None:
        """Wait for the releases under way."""
        await self._releases.settle()

    async def _accept_for(
        self, key: ApiKey, asked: prefill_pb2.OpenRequest, fresh: Request
    ) -> prefill_pb2.Accept:
        """Of the living or billed attempt of this request; one is made when there is none."""
        while True:
            request = self._known(fresh)
            if isinstance(request, Billed):
                return await self._again(request)
            async with request.opening:
                if not self._book.holds(request):
                    continue  # billed, or another Open of it failed and took the request along
                if request.current is not None and not request.dead:
                    return request.current.accept
                return (await self._admit(key, asked, request)).accept

    def _known(self, fresh: Request) -> Request | Billed:
        known = self._book.same(fresh.tenant, fresh.idempotency_key, fresh.body_digest)
        if known is None:
            self._book.add(fresh)
        return known or fresh

    async def _admit(
        self, key: ApiKey, asked: prefill_pb2.OpenRequest, request: Request
    ) -> GatewayAttempt:
        """A new attempt at the first worker that takes it, within the caller's limits."""
        permit: Permit | None = None
        try:
            permit = await self._permit(key, asked)
            attempt = await self._try_workers(key, asked, request)
        except BaseException:
            if permit is not None:
                permit.end(counted=False)
            if request.current is None:
                self._book.forget(request)
            raise
        attempt.release = partial(_end, attempt, attempt.release, permit)
        return attempt

    async def _permit(self, key: ApiKey, asked: prefill_pb2.OpenRequest) -> Permit:
        terms = self._keys.terms(key)
        numbers = (terms.limits, terms.key_limits)
        return await self._limiter.admit(key.tenant, key.key_id, numbers, asked.token_count)

    async def _try_workers(
        self, key: ApiKey, asked: prefill_pb2.OpenRequest, request: Request
    ) -> GatewayAttempt:
        refusal: DataPlaneError | None = None
        for link in self._fleet.serving(ModelIdentity.from_message(asked.model)):
            try:
                request.current = attempt = await self._admit_at(link, key, asked, request)
                return attempt
            except DataPlaneError as error:
                if error.code not in (StatusCode.CAPACITY_EXHAUSTED, StatusCode.WORKER_LOST):
                    raise
                refusal = error
        raise refusal or DataPlaneError(StatusCode.WORKER_LOST, "the worker left meanwhile")

    async def _admit_at(
        self, link: WorkerLink, key: ApiKey, asked: prefill_pb2.OpenRequest, request: Request
    ) -> GatewayAttempt:
        admitted, code = self._terms(link, key, asked, request)
        # A number is used once: a worker whose answer was lost may hold the attempt.
        number = request.attempts = admitted.attempt
        release = partial(self._releases.tell, link, request.request_id, number)
        try:
            capability = await link.admit(self._admit_request(admitted, code, asked))
            accept = self._accept(admitted, code, link, capability)
        except BaseException as error:
            full = isinstance(error, DataPlaneError) and error.code is StatusCode.CAPACITY_EXHAUSTED
            if full:
                request.attempts -= 1  # it reserved nothing, and knows no such number
            else:
                release()
            raise
        finished: asyncio.Future[fleet_pb2.RunFinished] = asyncio.get_running_loop().create_future()
        return GatewayAttempt(admitted, accept, link, finished, release)

    def _terms(
        self, link: WorkerLink, key: ApiKey, asked: prefill_pb2.OpenRequest, request: Request
    ) -> tuple[Admitted, Codec]:
        """What the attempt may cost and take; refuses what the model or the cap does not allow."""
        view, rules = link.view, self._rules
        model = view.model(asked.model.name) if view is not None else None
        if view is None or model is None:
            raise DataPlaneError(StatusCode.WORKER_LOST, f"worker {link.endpoint} left meanwhile")
        if asked.token_count > model.max_tokens:
            raise DataPlaneError(
                StatusCode.PROMPT_TOO_LONG,
                f"{asked.token_count} tokens, {model.name} takes {model.max_tokens}",
            )
        now_ms, terms = self._now_ms(), self._keys.terms(key)
        rates = rates_of(terms, asked.model.name, now_ms)
        bound = amount_micros(asked.token_count, 0, rates)
        cap = terms.price_cap_micros(asked.max_price_micros)
        if 0 < cap < bound:
            raise DataPlaneError(
                StatusCode.PRICE_CAP_EXCEEDED,
                f"the price is up to {bound} micros, the cap is {cap}",
            )
        deadline_at_ms = now_ms + min(asked.deadline_ms, 1000 * rules.max_deadline_seconds)
        admitted = Admitted(
            request_id=request.request_id,
            attempt=request.attempts + 1,
            tenant=key.tenant,
            key_id=key.key_id,
            fencing_epoch=rules.epoch,
            token_count=asked.token_count,
            model=model,
            certificate=view.certificate,
            price_bound_micros=bound,
            rates=rates,
            deadline_at_ms=deadline_at_ms,
            expires_at_ms=deadline_at_ms + 1000 * rules.lease_seconds,
        )
        return admitted, choose(asked.codecs, model.codecs)

    def _admit_request(
        self, admitted: Admitted, code: Codec, asked: prefill_pb2.OpenRequest
    ) -> fleet_pb2.AdmitRequest:
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
            codec_policy=asked.codec_policy,
            link_bytes_per_second=asked.link_bytes_per_second,
            wire_version=WIRE_VERSION,
            codec=code.wire_name,
            max_connections=min(self._rules.connections, MAX_CONNECTIONS),
            deadline_ms=max(0, admitted.deadline_at_ms - self._now_ms()),
            lease_seconds=self._rules.lease_seconds,
        )

    def _accept(
        self, admitted: Admitted, code: Codec, link: WorkerLink, capability: bytes
    ) -> prefill_pb2.Accept:
        view = link.view
        if view is None:
            raise DataPlaneError(StatusCode.WORKER_LOST, f"worker {link.endpoint} left meanwhile")
        return prefill_pb2.Accept(
            request_id=admitted.request_id,
            attempt=admitted.attempt,
            tenant=admitted.tenant,
            datacenter=self._fleet.datacenter,
            worker_id=view.said.worker_id,
            worker_certificate=view.said.certificate,
            wire_version=WIRE_VERSION,
            codec=code.wire_name,
            data_endpoint=view.said.data_endpoint,
            data_tls=view.said.data_tls,
            capability=capability,
            max_connections=min(self._rules.connections, MAX_CONNECTIONS),
            price_bound_micros=admitted.price_bound_micros,
            lease_seconds=max(0, admitted.expires_at_ms - self._now_ms()) // 1000,
            fencing_epoch=admitted.fencing_epoch,
            policy_hint=self._rules.hint(),
        )


def _end(attempt: GatewayAttempt, release: Callable[[], None], permit: Permit) -> None:
    """The worker frees the attempt; what was not billed does not count against a quota."""
    permit.end(counted=attempt.billing is not None)
    release()


def body_digest(asked: prefill_pb2.OpenRequest) -> bytes:
    """What makes two Opens the same request: everything but what its sender measured meanwhile."""
    body = prefill_pb2.OpenRequest()
    body.CopyFrom(asked)
    body.ClearField("deadline_ms")
    body.ClearField("link_bytes_per_second")
    return blake3(body.SerializeToString(deterministic=True)).digest()


def usable_public_key(public: bytes) -> bool:
    """Whether something can be sealed to it: points of low order agree on a secret of zeros."""
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def check_open(asked: prefill_pb2.OpenRequest) -> None:
    """Every field within its limits; the error names the first that is not."""
    if asked.token_count < 2:
        raise DataPlaneError(StatusCode.EMPTY_PROMPT, f"a prompt of {asked.token_count} tokens")
    if WIRE_VERSION not in asked.wire_versions:
        offered = list(asked.wire_versions)[:8]
        raise DataPlaneError(
            StatusCode.UNSUPPORTED_WIRE_VERSION, f"offered {offered}, spoken here is {WIRE_VERSION}"
        )
    blocks = asked.token_count // BLOCK_SIZE_TOKENS
    checks = {
        f"prompt_digest has {len(asked.prompt_digest)} bytes, not 32":
            len(asked.prompt_digest) == DIGEST_BYTES,
        f"one_time_public_key has {len(asked.one_time_public_key)} bytes, not 32":
            len(asked.one_time_public_key) == 32,
        f"idempotency_key has {len(asked.idempotency_key)} characters, not 1 to 128":
            0 < len(asked.idempotency_key) <= MAX_KEY_CHARACTERS,
        "deadline_ms is 0": asked.deadline_ms > 0,
        f"{len(asked.block_hashes)} block_hashes, {asked.token_count} tokens have {blocks}":
            len(asked.block_hashes) in (0, blocks),
        "a block hash has not 32 bytes": all(len(h) == DIGEST_BYTES for h in asked.block_hashes),
        f"block_size_tokens is {asked.block_size_tokens}, not {BLOCK_SIZE_TOKENS}":
            not asked.block_hashes or asked.block_size_tokens == BLOCK_SIZE_TOKENS,
        f"more than {MAX_NAMES} names in datacenters, residency, codecs or wire_versions": all(
            len(names) <= MAX_NAMES for names in
            (asked.datacenters, asked.residency, asked.codecs, asked.wire_versions)
        ),
        f"a name in datacenters, residency or codecs has not 1 to {MAX_TEXT_BYTES} bytes": all(
            0 < len(name.encode()) <= MAX_TEXT_BYTES for name in
            chain(asked.datacenters, asked.residency, asked.codecs)
        ),
        f"codec_policy has more than {MAX_TEXT_BYTES} bytes":
            len(asked.codec_policy.encode()) <= MAX_TEXT_BYTES,
        "one_time_public_key is no usable X25519 key": usable_public_key(asked.one_time_public_key),
    }  # fmt: skip
    for wrong, holds in checks.items():
        if not holds:
            raise DataPlaneError(StatusCode.MALFORMED_REQUEST, wrong)
