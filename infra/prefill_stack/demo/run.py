"""Puts the demo on: starts a platform and a small cloud, plays the scenes, asks the oracle."""

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
from prefill_stack.demo.door import Door
from prefill_stack.demo.oracle import Questions, ask_oracle
from prefill_stack.demo.prompt import read_prompt
from prefill_stack.demo.result import DemoResult
from prefill_stack.local_cloud import CloudPlan, LocalCloud, begin_cloud, finish_cloud
from prefill_stack.platform.keeper import Keeper
from prefill_stack.platform.plan import PLACES, PlatformPlan
from prefill_stack.platform.platform import Platform
from prefill_stack.platform.run import PlatformStart
from prefill_stack.services.account import remove_homes
from prefill_stack.supervisor import Supervisor

TENANTS = ("amber", "birch")
SHORT_TOKENS = 2_049  # one step of 2,048 and one token: a boundary on purpose
OTHER_TOKENS = 1_000
FOLLOWING_TOKENS = 1_024  # of the file, behind the short prompt: predicted from rounded states
KILLED_AT_CHUNK = 3
THRESHOLD = {"PREFILL_ROUTING_THRESHOLD_TOKENS": "512"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """What the scenes play on; `doomed` is the cloud whose worker is killed in scene d."""

    folder: Path
    platform: Platform
    doomed: LocalCloud
    code_lm: StepEngine
    mqar: StepEngine
    prompt: Sequence[int]

    @property
    def door(self) -> Door:
        """Where scenes a to c and e go in."""
        return Door.of_platform(self.platform)

    @property
    def short(self) -> list[int]:
        return list(self.prompt[:SHORT_TOKENS])

    @property
    def following(self) -> list[int]:
        return list(self.prompt[SHORT_TOKENS : SHORT_TOKENS + FOLLOWING_TOKENS])

    @property
    def other(self) -> list[int]:
        return list(self.prompt[-OTHER_TOKENS:])


def platform_plan(folder: Path) -> PlatformPlan:
    """The platform of all scenes but d: everything real, in one datacenter."""
    return PlatformPlan(
        folder / "platform",
        {name: shipped.checkpoint(name) for name in (shipped.CODE_LM, shipped.MQAR)},
        places=PLACES[:1],
        tenants=TENANTS,
        gateway_settings=THRESHOLD,
    )


def doomed_plan(folder: Path) -> CloudPlan:
    """The small cloud of scene d; its worker kills itself at a chunk index."""
    return CloudPlan(
        folder / "doomed",
        {shipped.CODE_LM: shipped.checkpoint(shipped.CODE_LM)},
        tenants=TENANTS,
        worker_settings={"PREFILL_FAILPOINTS": f"worker.chunk@{KILLED_AT_CHUNK}=kill"},
        gateway_settings=THRESHOLD,
    )


def greatest_difference(ours: Continuation, theirs: Continuation) -> float:
    """max |dlogit| over all steps and the whole vocabulary."""
    return float(np.abs(ours.logits - theirs.logits).max())


async def scene_a(stage: Stage, result: DemoResult, say: Say) -> Continuation:
    """The long prompt, alone on the machine: its timeline is honest."""
    started = time.perf_counter()
    state = await scenes.prefill(stage.door, TENANTS[0], stage.code_lm, stage.prompt)
    loaded = time.perf_counter()
    ours = continue_greedily(stage.code_lm, state.tensors, stage.prompt, scenes.NEW_TOKENS)
    result.prompt_tokens = len(stage.prompt)
    result.distinct_tokens = len(set(ours.tokens))
    result.state_bytes_raw, result.state_bytes_sent = state.bytes_raw, state.bytes_sent
    result.timeline_ms = scenes.timeline_of(state, ours)
    say(f"a  {len(stage.prompt):,} tokens prefilled by the cloud in {loaded - started:.1f} s")
    key = stage.platform.tenant_keys[TENANTS[0]]
    billed = await scenes.billed_tokens(stage.platform.api_url, key, state.request_id)
    result.usage_row_read_back = billed == len(stage.prompt)
    say(f"   its usage row, read back over REST, bills {billed:,} tokens")
    return ours


async def scene_b(stage: Stage, result: DemoResult, say: Say) -> None:
    found = await scenes.recall(stage.door, TENANTS[0], stage.mqar)
    result.mqar_recall, result.mqar_recall_zeroed = found.whole, found.zeroed
    say(f"b  recall {found.whole:.1%}; with the recurrent state zeroed {found.zeroed:.1%}")


async def scene_d(stage: Stage, say: Say) -> tuple[list[int], int]:
    found = await scenes.killed_worker(stage.doomed, TENANTS[0], stage.code_lm, stage.short)
    say(f"d  worker killed at chunk {KILLED_AT_CHUNK}: answered by {found.route} ({found.reason})")
    return found.tokens, found.usage_rows


async def scene_e(stage: Stage, result: DemoResult, say: Say) -> None:
    """What rounding a state saves and costs."""
    found = await scenes.policies(
        stage.door, TENANTS[0], stage.code_lm, stage.short, stage.following
    )
    result.bytes_on_wire, result.policy_kl = found.bytes_on_wire, found.kl
    say(f"e  {found.summary()}")


async def play(stage: Stage, result: DemoResult, say: Say) -> None:
    """All scenes; transformers computes in its own process while b to e play."""
    long = await scene_a(stage, result, say)
    prompts = {"short": stage.short, "other": stage.other, "long": stage.prompt}
    checkpoint = shipped.checkpoint(shipped.CODE_LM)
    questions = Questions(stage.folder / "oracle", checkpoint, prompts, scenes.NEW_TOKENS)
    torch.set_num_threads(1)  # single tokens gain nothing from more, and the oracle has the others
    oracle = asyncio.create_task(ask_oracle(questions))
    try:
        await scene_b(stage, result, say)
        pair = await scenes.two_tenants(stage.door, stage.code_lm, (stage.short, stage.other))
        say("c  two tenants asked at once; both answered")
        fallback_tokens, result.usage_rows_after_kill = await scene_d(stage, say)
        await scene_e(stage, result, say)
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
    keeper = Keeper(say=say)
    with tempfile.TemporaryDirectory(prefix="prefill-demo-") as name, Supervisor() as supervisor:
        folder = Path(name)
        try:
            doomed = begin_cloud(supervisor, doomed_plan(folder))
            platform = PlatformStart(platform_plan(folder), keeper, supervisor).run()
            prompt = read_prompt()
            code_lm = StepEngine.load(
                shipped.checkpoint(shipped.CODE_LM), max_tokens=len(prompt) + scenes.NEW_TOKENS
            )
            mqar = StepEngine.load(shipped.checkpoint(shipped.MQAR), max_tokens=1_024)
            stage = Stage(folder, platform, finish_cloud(supervisor, doomed), code_lm, mqar, prompt)
            say("   the platform is up: services, control plane, gateway, worker; this one decodes")
            asyncio.run(play(stage, result, say))
        finally:
            keeper.destroy()
            remove_homes(folder)  # of what did not even start
    result.wall_seconds = round(time.perf_counter() - started, 2)
    return result
