"""Open: check what is asked, choose where, admit one attempt. The prompt is not here yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from prefill_fleet.pb import fleet_pb2
from prefill_wire.identity import ModelIdentity
from prefill_wire.ids import Random, new_request_id
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.admission import Admissions, OpeningRules
from prefill_data.gateway.asked import body_digest, check_open
from prefill_data.gateway.billed import Billed
from prefill_data.gateway.callers import KeySource
from prefill_data.gateway.fleet import Fleet, WorkerLink, WorkerView
from prefill_data.gateway.keys import ApiKey
from prefill_data.gateway.releases import Releases
from prefill_data.gateway.requests import GatewayAttempt, Request, RequestBook
from prefill_data.gateway.terms import check_model, choose_place, order_of, rates_of
from prefill_data.limits.limiter import Limiter, Permit
from prefill_data.router.choose import reason_of


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
        self._admissions = Admissions(rules, keys, fleet.datacenter, now_ms)
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
        check_model(terms, ModelIdentity.from_message(asked.model), asked.token_count)
        if asked.local_prefix_tokens >= asked.token_count - 1:
            reason = f"{asked.local_prefix_tokens} of {asked.token_count} tokens are local already"
            local = prefill_pb2.UseLocal(reason=reason, policy_hint=self._rules.hint())
            return fresh_id, prefill_pb2.OpenResponse(use_local=local)
        views = self._fleet.datacenters()
        place = choose_place(terms, views, list(asked.datacenters), list(asked.residency))
        if place.name != self._fleet.datacenter:
            redirect = prefill_pb2.Redirect(datacenter=place.name, endpoint=place.endpoint)
            return fresh_id, prefill_pb2.OpenResponse(redirect=redirect)
        reason = reason_of(place, order_of(terms, list(asked.datacenters)))
        accept = await self._accept_for(
            key, asked, Request(fresh_id, key.tenant, asked.idempotency_key, digest, reason)
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
        admitted = self._admissions.terms(_view(link), key, asked, request)
        # A number is used once: a worker whose answer was lost may hold the attempt.
        number = request.attempts = admitted.attempt
        release = partial(self._releases.tell, link, request.request_id, number)
        try:
            message = self._admissions.request(admitted, asked)
            with self._releases.riding(link) as over:
                message.over.extend(over)
                capability = await link.admit(message)
            accept = self._admissions.accept(admitted, _view(link), capability)
        except BaseException as error:
            full = isinstance(error, DataPlaneError) and error.code is StatusCode.CAPACITY_EXHAUSTED
            if full:
                request.attempts -= 1  # it reserved nothing, and knows no such number
            else:
                release()
            raise
        finished: asyncio.Future[fleet_pb2.RunFinished] = asyncio.get_running_loop().create_future()
        return GatewayAttempt(admitted, accept, link, finished, release)


def _view(link: WorkerLink) -> WorkerView:
    if link.view is None:
        raise DataPlaneError(StatusCode.WORKER_LOST, f"worker {link.endpoint} left meanwhile")
    return link.view


def _end(attempt: GatewayAttempt, release: Callable[[], None], permit: Permit) -> None:
    """The worker frees the attempt; what was not billed does not count against a quota."""
    permit.end(counted=attempt.billing is not None)
    release()
