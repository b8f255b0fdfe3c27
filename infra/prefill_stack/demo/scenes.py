"""The five scenes. Each takes the stage, plays and returns its findings."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from prefill_cloud import PrefilledState
from prefill_cloud.manage import AsyncManagementClient
from prefill_cloud.quality import CodecPolicy
from prefill_engine.bench.codec_quality import divergence
from prefill_engine.engine import StepEngine
from prefill_engine.training.mqar import recall_batch

from prefill_stack.demo.decoding import (
    Continuation,
    continue_greedily,
    forced_predictions,
    given_predictions,
    without_recurrent_state,
)
from prefill_stack.demo.door import Door
from prefill_stack.local_cloud import LocalCloud

NEW_TOKENS = 64
POLICIES: tuple[CodecPolicy, ...] = ("exact", "near-lossless", "compact")
DEADLINE_SECONDS = 120.0
USAGE_SECONDS = 30.0  # a gateway ships its receipts within seconds
LOOK_SECONDS = 0.25
MQAR_SEED = 20_26
MQAR_SEQUENCES = 16
MQAR_PAIRS = 32


@dataclass(frozen=True)
class Recall:
    """Share of right answers with the state as it came, and with its recurrent part zeroed."""

    whole: float
    zeroed: float


@dataclass(frozen=True)
class Fallback:
    """What a request whose worker was killed came to."""

    tokens: list[int]
    route: str
    reason: str
    usage_rows: int


@dataclass(frozen=True)
class Rounded:
    """Bytes of one state as it is and sealed by policy; mean KL in nats from the exact state's."""

    bytes_on_wire: dict[str, int]
    kl: dict[str, float]

    def summary(self) -> str:
        """One line for people."""
        raw = self.bytes_on_wire["raw"]
        parts = [
            f"{policy} {raw / self.bytes_on_wire[policy]:.2f} times smaller"
            + (f" at KL {self.kl[policy]:.1e}" if policy in self.kl else "")
            for policy in POLICIES
        ]
        return f"a state of {raw / 2**20:.1f} MiB: {', '.join(parts)}"


async def prefill(
    door: Door,
    tenant: str,
    engine: StepEngine,
    tokens: Sequence[int],
    policy: CodecPolicy | None = None,
) -> PrefilledState:
    """One verified state from the cloud for this tenant; exact, unless a policy is named."""
    async with door.client(tenant) as client:
        return await client.prefill(
            tokens,
            engine.identity,
            engine.schema,
            deadline_seconds=DEADLINE_SECONDS,
            codec_policy=policy,
        )


async def recall(door: Door, tenant: str, engine: StepEngine) -> Recall:
    """Scene b: pairs of keys and values go through the cloud; every key is asked locally."""
    batch = recall_batch(MQAR_SEED, MQAR_SEQUENCES, MQAR_PAIRS)
    split = batch.prompt_tokens + 1  # token N is the first question
    right = zeroed = 0
    async with door.client(tenant) as client:
        for row, answers in zip(batch.tokens, batch.answers, strict=True):
            prompt, rest = row[:split].tolist(), row[split:-1].tolist()
            state = await client.prefill(
                prompt, engine.identity, engine.schema, deadline_seconds=DEADLINE_SECONDS
            )
            for_all = forced_predictions(engine, state.tensors, prompt, rest)[::2]
            empty = without_recurrent_state(state.tensors)
            for_none = forced_predictions(engine, empty, prompt, rest)[::2]
            right += int(np.sum(np.asarray(for_all) == answers))
            zeroed += int(np.sum(np.asarray(for_none) == answers))
    total = batch.answers.size
    return Recall(right / total, zeroed / total)


async def two_tenants(
    door: Door, engine: StepEngine, prompts: Sequence[Sequence[int]]
) -> list[Continuation]:
    """Scene c: two tenants ask at the same moment, with different prompts."""
    asked = [prefill(door, t, engine, p) for t, p in zip(door.keys, prompts, strict=True)]
    states = await asyncio.gather(*asked)
    return [
        continue_greedily(engine, state.tensors, prompt, NEW_TOKENS)
        for state, prompt in zip(states, prompts, strict=True)
    ]


async def policies(
    door: Door, tenant: str, engine: StepEngine, prompt: Sequence[int], rest: Sequence[int]
) -> Rounded:
    """Scene e: one prompt under every policy; what follows it is predicted from each state."""
    sizes: dict[str, int] = {}
    predicted: dict[str, np.ndarray] = {}
    for policy in POLICIES:
        state = await prefill(door, tenant, engine, prompt, policy)
        sizes |= {"raw": state.bytes_raw, policy: state.bytes_sent}
        predicted[policy] = given_predictions(engine, state.tensors, prompt, rest)
    kl: dict[str, float] = {
        policy: float(divergence(predicted["exact"], predicted[policy]).mean())
        for policy in POLICIES[1:]
    }
    return Rounded(sizes, kl)


async def billed_tokens(api_url: str, key: str, request_id: str) -> int:
    """Tokens of this request's receipt, read back over the REST API; 0 when none comes in time."""
    async with AsyncManagementClient(api_url, key) as client:
        for _ in range(round(USAGE_SECONDS / LOOK_SECONDS)):
            async for receipt in client.usage.receipts():
                if receipt.request_id == request_id:
                    return receipt.token_count
            await asyncio.sleep(LOOK_SECONDS)
    return 0


def receipts_in(spool: Path) -> int:
    """Receipts that a gateway made durable."""
    from prefill_data.metering.spool import read_receipts

    return len(list(read_receipts(spool)))


def timeline_of(state: PrefilledState, ours: Continuation) -> dict[str, float]:
    """Where the time to the first token went, in ms; loading and decoding were measured here."""
    load, first = ours.load_seconds, ours.first_token_seconds
    total = state.timeline.total + load + first
    whole = replace(state.timeline, load=load, first_token=first, total=total)
    return {name: round(value, 1) for name, value in whole.as_ms().items()}


async def killed_worker(
    cloud: LocalCloud, tenant: str, engine: StepEngine, prompt: Sequence[int]
) -> Fallback:
    """Scene d: the worker dies mid-stream; the session answers by local prefill."""
    spool = cloud.plan.directory / "gateway" / "spool"
    before = receipts_in(spool)
    async with Door.of_cloud(cloud).client(tenant) as client:
        session = client.session(engine)
        result = await session.generate(list(prompt), max_new_tokens=NEW_TOKENS)
    return Fallback(result.tokens, result.route, result.reason, receipts_in(spool) - before)
