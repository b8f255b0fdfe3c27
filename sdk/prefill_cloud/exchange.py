"""The gRPC half of an attempt: Open, Prompt, Claim, Cancel; every call has a deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc
import numpy as np
from prefill_wire.digests import token_bytes
from prefill_wire.limits import MAX_PROMPT_PART_BYTES
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.sealing import Envelope
from prefill_wire.status import StatusCode

from prefill_cloud.channels import Channels
from prefill_cloud.clock import Clock, Deadline
from prefill_cloud.endpoint import Endpoint
from prefill_cloud.errors import PrefillCloudError, UseLocalError, error_for
from prefill_cloud.hints import ThresholdHint
from prefill_cloud.logs import logger
from prefill_cloud.refusals import exception_of, hides_refusal
from prefill_cloud.tuning import Tuning

_Answer = TypeVar("_Answer")
_Call = Callable[[float], Awaitable[_Answer]]
PROMPT_TRIES = 2  # the second tells why the first was refused


@dataclass(frozen=True, slots=True, repr=False)
class Exchange:
    """The calls of one client to one gateway; a redirect makes another one."""

    channels: Channels
    endpoint: Endpoint
    api_key: str
    hint: ThresholdHint
    clock: Clock
    tuning: Tuning

    @property
    def _stub(self) -> prefill_pb2_grpc.PrefillGatewayStub:
        return self.channels.stub(self.endpoint)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.api_key}"),)

    async def open(
        self, message: prefill_pb2.OpenRequest, deadline: Deadline
    ) -> tuple[Exchange, prefill_pb2.Accept]:
        """The accepted attempt and the gateway that accepted it, at most two redirects away.

        Raises `UseLocalError` when the cloud advises so. A lost answer is asked for again: the
        idempotency key makes that the same attempt.
        """
        here = self
        for _ in range(self.tuning.redirects + 1):
            response = await here._open_once(message, deadline)
            outcome = response.WhichOneof("outcome")
            if outcome == "accept":
                self.hint.update(response.accept.policy_hint)
                return here, response.accept
            if outcome == "use_local":
                self.hint.update(response.use_local.policy_hint)
                raise UseLocalError(response.use_local.reason[:512])
            if outcome != "redirect":
                raise error_for(StatusCode.INTERNAL, "Open was answered without an outcome.")
            here = replace(here, endpoint=here._redirected(response.redirect.endpoint))
        message_text = f"Open was redirected more than {self.tuning.redirects} times."
        raise error_for(StatusCode.NO_DATACENTER, message_text)

    def _redirected(self, text: str) -> Endpoint:
        try:
            target = Endpoint.parse(text)
        except PrefillCloudError:
            raise error_for(StatusCode.INTERNAL, "Open was redirected to no endpoint.") from None
        if target.loopback and not self.endpoint.loopback:
            # Plain text is for this machine; a remote gateway has no business sending a key there.
            message = f"{self.endpoint.text} redirected to {target.text}, on this machine."
            raise error_for(StatusCode.INTERNAL, message)
        return target

    async def _open_once(
        self, message: prefill_pb2.OpenRequest, deadline: Deadline
    ) -> prefill_pb2.OpenResponse:
        async def call(seconds: float) -> prefill_pb2.OpenResponse:
            message.deadline_ms = max(1, int(deadline.left_seconds() * 1000))
            answer: prefill_pb2.OpenResponse = await self._stub.Open(
                message, timeout=seconds, metadata=self._metadata
            )
            return answer

        return await self._retried(
            "Open", call, self._patience(deadline), "", self.tuning.open_tries
        )

    async def prompt(
        self, accept: prefill_pb2.Accept, tokens: np.ndarray, deadline: Deadline
    ) -> Envelope:
        """Send the prompt; the key envelope comes once a worker has it."""
        data, tries = token_bytes(tokens), PROMPT_TRIES
        while True:
            call = self._stub.Prompt(
                prompt_parts(accept, data), timeout=deadline.left_seconds(), metadata=self._metadata
            )
            try:
                envelope = (await call).envelope
                return Envelope(envelope.encapsulated_key, envelope.ciphertext)
            except grpc.aio.AioRpcError as error:
                tries -= 1
                if not tries or not hides_refusal(error):
                    raise exception_of(error, "Prompt", accept.request_id) from None

    async def claim(
        self, request: prefill_pb2.ClaimRequest, deadline: Deadline
    ) -> prefill_pb2.ClaimResponse:
        """State "I hold every chunk"; asked again while the gateway is away, until the deadline."""

        async def call(seconds: float) -> prefill_pb2.ClaimResponse:
            answer: prefill_pb2.ClaimResponse = await self._stub.Claim(
                request, timeout=seconds, metadata=self._metadata
            )
            return answer

        return await self._retried("Claim", call, deadline, request.request_id, None)

    async def cancel(self, request_id: str, attempt: int, reason: str) -> None:
        """Give an attempt up, by best effort: its lease ends it otherwise."""
        message = prefill_pb2.CancelRequest(request_id=request_id, attempt=attempt, reason=reason)
        seconds = self.tuning.cancel_seconds
        try:
            await self._stub.Cancel(message, timeout=seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            logger(request_id).info("cancel_not_delivered", status=error.code().name)

    async def models(self, deadline: Deadline) -> prefill_pb2.ListModelsResponse:
        """The models that this key may use."""
        message = prefill_pb2.ListModelsRequest()

        async def call(seconds: float) -> prefill_pb2.ListModelsResponse:
            answer: prefill_pb2.ListModelsResponse = await self._stub.ListModels(
                message, timeout=seconds, metadata=self._metadata
            )
            return answer

        until, tries = self._patience(deadline), self.tuning.open_tries
        response = await self._retried("ListModels", call, until, "", tries)
        self.hint.update(response.policy_hint)
        return response

    def _patience(self, deadline: Deadline) -> Deadline:
        """All tries of a first contact together: a gateway in a black hole is left soon."""
        first = Deadline.after(self.clock, self.tuning.call_seconds)
        return min(first, deadline, key=lambda each: each.at_seconds)

    async def _retried(
        self,
        name: str,
        call: _Call[_Answer],
        deadline: Deadline,
        request_id: str,
        tries: int | None,
    ) -> _Answer:
        """Call until it is answered; only an unreachable network is worth another try."""
        failures = 0
        while True:
            seconds = min(self.tuning.call_seconds, deadline.left_seconds())
            try:
                return await call(seconds)
            except grpc.aio.AioRpcError as error:
                failed = exception_of(error, name, request_id)
            failures += 1
            if failed.code is not StatusCode.NETWORK_UNAVAILABLE or failures == tries:
                raise failed
            wait = self.tuning.backoff.wait_seconds(failures, self.clock.fraction())
            logger(request_id).info(
                "call_retried", call=name, failures=failures, error=failed.message
            )
            await self.clock.sleep(min(wait, deadline.left_seconds()))
            if deadline.left_seconds() <= 0.0:
                raise failed


async def prompt_parts(
    accept: prefill_pb2.Accept, data: bytes
) -> AsyncIterator[prefill_pb2.PromptPart]:
    """The prompt in parts of at most 1 MiB; the first one names the attempt."""
    for start in range(0, len(data), MAX_PROMPT_PART_BYTES):
        part = prefill_pb2.PromptPart(token_ids=data[start : start + MAX_PROMPT_PART_BYTES])
        if start == 0:
            part.request_id, part.attempt = accept.request_id, accept.attempt
        yield part
