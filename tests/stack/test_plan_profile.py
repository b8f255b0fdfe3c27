"""`prefill-cloud profile`: against a stand-in for the client, and against a real local cloud."""

import asyncio
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from prefill_data.planner.loading import load_plan
from prefill_data.planner.solver import solve
from prefill_stack import shipped
from prefill_stack.errors import NotConfigured
from prefill_stack.local_cloud import CloudPlan, save_credentials, start_cloud
from prefill_stack.profiling import (
    Protocol,
    lengths_up_to,
    measure_prefills,
    prompts,
    served_as,
    whole_numbers,
)
from prefill_stack.supervisor import Supervisor


def stand_in(calls):
    """A client's `prefill`: remembers prompts; 100 us a token, 10 bytes a token."""

    async def prefill(tokens):
        calls.append(tokens)
        count = len(tokens)
        receipt = SimpleNamespace(
            token_count=count,
            cached_tokens=0,
            prefill_us=100 * count,
            state_bytes_raw=10 * count,
            state_bytes_sent=7 * count,
        )
        manifest, codecs = SimpleNamespace(tensors=()), {(0, "kv"): "planes-zstd"}
        return SimpleNamespace(receipt=receipt, manifest=manifest, codecs=codecs, tensors={})

    return prefill


def test_samples_are_the_receipts_without_the_warm_up():
    calls = []
    protocol = Protocol((10, 40), 2, (1,))
    samples = asyncio.run(measure_prefills(stand_in(calls), 100, protocol))
    assert [len(tokens) for tokens in calls] == [11, 11, 11, 41, 41]
    assert [sample.tokens for sample in samples] == [10, 10, 40, 40]
    assert samples[-1].state_bytes == {"none": 410, "planes-zstd": 287}
    assert samples[-1].prefill_us == 4100


def test_no_prompt_is_anothers_prefix():
    protocol = Protocol((10, 40), 3, (1,))
    made = list(prompts(50_000, protocol))
    assert len({tuple(tokens[:10].tolist()) for tokens in made}) == len(made)
    assert all(tokens.dtype == np.uint32 and tokens.max() < 50_000 for tokens in made)
    again = list(prompts(50_000, protocol))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


def test_lengths_rise_to_the_longest():
    assert lengths_up_to(8192) == (256, 609, 1448, 3444, 8192)
    assert lengths_up_to(4)[-1] == 4
    assert whole_numbers("--lengths", "4096, 256,256") == (256, 4096)
    for text in ("", "a", "0,5", "1.5"):
        with pytest.raises(NotConfigured, match="--lengths"):
            whole_numbers("--lengths", text)


def test_a_model_is_found_by_what_it_is_not_by_its_name():
    def model(name, fingerprint, profile="fp32"):
        identity = SimpleNamespace(name=name, fingerprint=fingerprint, numerics_profile=profile)
        return SimpleNamespace(identity=identity)

    engine = SimpleNamespace(**vars(model("mine", b"x")), profile="fp32")
    served = [model("mine", b"y"), model("theirs", b"x", "bf16-cache"), model("ours", b"x")]
    assert served_as(served, engine).identity.name == "ours"
    with pytest.raises(NotConfigured, match=r"does not serve mine .fp32.; it serves mine, theirs"):
        served_as(served[:2], engine)


def profile(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "prefill_stack.cli", "profile", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_live_worker_becomes_a_profile_that_plans(tmp_path):
    """Measured, written, read by the planner on both sides of a link, and planned with."""
    checkpoints = {"anything": shipped.checkpoint(shipped.MQAR)}
    with Supervisor() as supervisor:
        cloud = start_cloud(supervisor, CloudPlan(tmp_path / "cloud", checkpoints))
        save_credentials(cloud)
        common = ("--directory", tmp_path / "cloud", "--repeats", 1, "--batches", "1,2")
        longest = ("--checkpoint", checkpoints["anything"], "--lengths", "64,256")
        done = profile(*common, *longest, "--into", tmp_path / "mine.yaml", "--json")
        assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == yaml.safe_load((tmp_path / "mine.yaml").read_text(encoding="utf-8"))
    raw, coded = (document["state"][name]["points"] for name in ("none", "planes-zstd"))
    assert [tokens for tokens, _ in raw] == [64, 256]
    assert all(0 < small[1] < large[1] for small, large in zip(coded, raw, strict=True))
    plan = {
        "name": "mine",
        "workload": {"kind": "histogram", "points": [[50, 1], [250, 1]], "output_tokens": 10},
        "slo": {"decode_tokens_per_second": 1},
        "codec": {"name": "planes-zstd"},
        "prefill_clusters": [
            {"name": "far", "profile": "mine.yaml", "instances": 2, "egress_gbps": 1}
        ],
        "local_clusters": [{"name": "near", "profile": "mine.yaml", "instances": 2}],
        "links": [{"source": "far", "target": "near", "bandwidth_gbps": 1, "rtt_ms": 1}],
        "search": {"step_tokens": 10},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    _, scenario = load_plan(tmp_path / "plan.yaml")
    assert solve(scenario).lambda_rps > 0


def test_without_a_cloud_it_is_one_line(tmp_path):
    done = profile("--directory", tmp_path)
    assert done.returncode == 1
    assert "no running cloud is known here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
