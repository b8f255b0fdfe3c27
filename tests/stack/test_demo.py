"""The demo, run once as a stranger runs it: its JSON keys and the truths behind them."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from prefill_stack.demo.result import DemoResult

KEYS = [
    "prompt_tokens",
    "tokens_equal",
    "distinct_tokens",
    "max_abs_logit_difference",
    "state_bytes_raw",
    "state_bytes_sent",
    "timeline_ms",
    "mqar_recall",
    "mqar_recall_zeroed",
    "concurrent_equal",
    "fallback_tokens_equal",
    "usage_rows_after_kill",
    "usage_row_read_back",
    "bytes_on_wire",
    "policy_kl",
    "wall_seconds",
]
KEPT = DemoResult(
    prompt_tokens=16_384,
    tokens_equal=True,
    distinct_tokens=40,
    max_abs_logit_difference=1e-6,
    mqar_recall=1.0,
    mqar_recall_zeroed=0.3,
    concurrent_equal=True,
    fallback_tokens_equal=True,
    usage_rows_after_kill=0,
    usage_row_read_back=True,
    policy_kl={"near-lossless": 1e-6, "compact": 1e-4},
)
BROKEN = {
    "tokens_equal": False,
    "distinct_tokens": 23,
    "max_abs_logit_difference": 2e-4,
    "mqar_recall": 0.98,
    "mqar_recall_zeroed": 0.5,
    "concurrent_equal": False,
    "fallback_tokens_equal": False,
    "usage_rows_after_kill": 1,
    "usage_row_read_back": False,
    "policy_kl": {"near-lossless": 2e-5, "compact": 1e-4},
}


# What the demo stands on; a checkout without one of these cannot show it, and says which.
NEEDED = ("prefill_data.gateway.__main__", "prefill_data.worker.__main__", "prefill_cloud.client")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the command, with every core it can get."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"DEMO NOT SHOWN: this checkout lacks {', '.join(missing)}")
    environment = dict(os.environ)
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-m", "prefill_stack.cli", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=570,
        env=environment,
        cwd=tmp_path_factory.mktemp("demo"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_keys_are_the_promised_ones(demo):
    assert list(demo) == KEYS


def test_the_truths_hold(demo):
    assert DemoResult(**demo).broken_promises() == []


def test_a_long_prompt_travelled_smaller_than_it_is(demo):
    assert demo["prompt_tokens"] >= 16_384
    assert 0 < demo["state_bytes_sent"] < demo["state_bytes_raw"]
    assert demo["timeline_ms"]


def test_every_policy_makes_the_state_smaller_than_the_one_before(demo):
    sizes = list(demo["bytes_on_wire"].items())
    assert [name for name, _ in sizes] == ["raw", "exact", "near-lossless", "compact"]
    assert sorted((size for _, size in sizes), reverse=True) == [size for _, size in sizes]


def test_no_process_is_left(demo):
    left = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue  # it ended, or belongs to somebody else
        ours = any(part.startswith("prefill_data.") for part in command)
        if ours and process.ppid() == 1:
            left.append(command)
    assert not left


def test_a_kept_demo_breaks_no_promise():
    assert KEPT.broken_promises() == []


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_promise_is_told(name):
    assert len(replace(KEPT, **{name: BROKEN[name]}).broken_promises()) == 1


def test_an_empty_result_keeps_no_promise():
    assert len(DemoResult().broken_promises()) == len(BROKEN) + 1  # one for each policy's KL
