"""Puts the demo on: starts two small clouds, plays the scenes, compares with the oracle."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from prefill_engine.engine import StepEngine

from prefill_stack import shipped
from prefill_stack.demo import scenes
from prefill_stack.demo.decoding import Continuation, continue_greedily
from prefill_stack.demo.oracle import Questions, ask_oracle
from prefill_stack.demo.prompt import read_prompt
from prefill_stack.demo.result import DemoResult
from prefill_stack.local_cloud import CloudPlan, LocalCloud, begin_cloud, finish_cloud
from prefill_stack.supervisor import Supervisor

TENANTS = ("amber", "birch")
SHORT_TOKENS = 2_049  # one step of 2,048 and one token: a boundary on purpose
OTHER_TOKENS = 1_000
KILLED_AT_CHUNK = 3
ROUTING_THRESHOLD_TOKENS = 512

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """What the scenes play on."""

    folder: Path
    cloud: LocalCloud
    doomed: LocalCloud
    code_lm: StepEngine
    mqar: StepEngine
    prompt: Sequence[int]

    @property
    def short(self) -> list[int]:
        return list(self.prompt[:SHORT_TOKENS])

    @property
    def other(self) -> list[int]:
        return list(self.prompt[-OTHER_TOKENS:])


def cloud_plans(folder: Path) -> tuple[CloudPlan, CloudPlan]:
    """The cloud of scenes a to c, and the one whose worker is killed in scene d."""
    code_lm, mqar = shipped.checkpoint(shipped.CODE_LM), shipped.checkpoint(shipped.MQAR)
    threshold = {"PREFILL_ROUTING_THRESHOLD_TOKENS": str(ROUTING_THRESHOLD_TOKENS)}
    whole = CloudPlan(
        folder / "cloud",
        {shipped.CODE_LM: code_lm, shipped.MQAR: mqar},
        tenants=TENANTS,
        gateway_settings=threshold,
    )
    doomed = CloudPlan(
        folder / "doomed",
        {shipped.CODE_LM: code_lm},
        tenants=TENANTS,
        worker_settings={"PREFILL_FAILPOINTS": f"worker.chunk@{KILLED_AT_CHUNK}=kill"},
        gateway_settings=threshold,
    )
    return whole, doomed


def greatest_difference(ours: Continuation, theirs: Continuation) -> float:
    """max |dlogit| over all steps and the whole vocabulary."""
    return float(np.abs(ours.logits - theirs.logits).max())


async def scene_a(stage: Stage, result: DemoResult, say: Say) -> Continuation:
    """The long prompt, alone on the machine: its timeline is honest."""
    started = time.perf_counter()
    state = await scenes.prefill(stage.cloud, TENANTS[0], stage.code_lm, stage.prompt)
    loaded = time.perf_counter()
    ours = continue_greedily(stage.code_lm, state.tensors, stage.prompt, scenes.NEW_TOKENS)
    result.prompt_tokens = len(stage.prompt)
    result.distinct_tokens = len(set(ours.tokens))
    result.state_bytes_raw, result.state_bytes_sent = state.bytes_raw, state.bytes_sent
    result.timeline_ms = scenes.timeline_of(state, ours)
    say(f"a  {len(stage.prompt):,} tokens prefilled by the cloud in {loaded - started:.1f} s")
    return ours


async def scene_b(stage: Stage, result: DemoResult, say: Say) -> None:
    found = await scenes.recall(stage.cloud, TENANTS[0], stage.mqar)
    result.mqar_recall, result.mqar_recall_zeroed = found.whole, found.zeroed
    say(f"b  recall {found.whole:.1%}; with the recurrent state zeroed {found.zeroed:.1%}")


async def scene_d(stage: Stage, say: Say) -> tuple[list[int], int]:
    found = await scenes.killed_worker(stage.doomed, TENANTS[0], stage.code_lm, stage.short)
    say(f"d  worker killed at chunk {KILLED_AT_CHUNK}: answered by {found.route} ({found.reason})")
    return found.tokens, found.usage_rows


async def play(stage: Stage, result: DemoResult, say: Say) -> None:
    """All scenes; transformers computes in its own process while b, c and d play."""
    long = await scene_a(stage, result, say)
    prompts = {"short": stage.short, "other": stage.other, "long": stage.prompt}
    checkpoint = shipped.checkpoint(shipped.CODE_LM)
    questions = Questions(stage.folder / "oracle", checkpoint, prompts, scenes.NEW_TOKENS)
    torch.set_num_threads(1)  # single tokens gain nothing from more, and the oracle has the others
    oracle = asyncio.create_task(ask_oracle(questions))
    try:
        await scene_b(stage, result, say)
        pair = await scenes.two_tenants(stage.cloud, stage.code_lm, (stage.short, stage.other))
        say("c  two tenants asked at once; both answered")
        fallback_tokens, result.usage_rows_after_kill = await scene_d(stage, say)
        say("   waiting for plain transformers, in its own process, to do the same work")
        answers = await oracle
    finally:
        oracle.cancel()
        await asyncio.gather(oracle, return_exceptions=True)
    result.tokens_equal = long.tokens == answers["long"].tokens
    result.max_abs_logit_difference = greatest_difference(long, answers["long"])
    expected = [answers["short"].tokens, answers["other"].tokens]
    result.concurrent_equal = [each.tokens for each in pair] == expected
    result.fallback_tokens_equal = fallback_tokens == answers["short"].tokens


def run_demo(say: Say) -> DemoResult:
    """The whole demo; leaves no process and no file behind."""
    started = time.perf_counter()
    result = DemoResult()
    with tempfile.TemporaryDirectory(prefix="prefill-demo-") as name, Supervisor() as supervisor:
        folder = Path(name)
        starting = [begin_cloud(supervisor, plan) for plan in cloud_plans(folder)]
        prompt = read_prompt()
        code_lm = StepEngine.load(
            shipped.checkpoint(shipped.CODE_LM), max_tokens=len(prompt) + scenes.NEW_TOKENS
        )
        mqar = StepEngine.load(shipped.checkpoint(shipped.MQAR), max_tokens=1_024)
        cloud, doomed = (finish_cloud(supervisor, each) for each in starting)
        say("   processes are up: two workers, two gateways, this one decodes")
        stage = Stage(folder, cloud, doomed, code_lm, mqar, prompt)
        asyncio.run(play(stage, result, say))
    result.wall_seconds = round(time.perf_counter() - started, 2)
    return result
