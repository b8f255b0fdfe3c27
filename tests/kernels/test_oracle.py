"""The oracle's process: its steps change nothing, and it loads none of our kernels."""

import os
import subprocess
import sys

import numpy as np
from prefill_engine.engine import StepEngine
from prefill_engine.random_checkpoint import write_random_checkpoint

FALSE_FLA = """
def refuse(*args, initial_state=None, output_final_state=False, **options):
    raise RuntimeError("0 active drivers ([]). There should only be one.")

chunk_kda = fused_recurrent_kda = causal_conv1d_fn = causal_conv1d_update = refuse
"""
BOUND = (
    "from transformers.models.kimi_linear.modeling_kimi_linear import chunk_kimi_delta_attention"
)


def run_oracle(folder, tokens, output, step, modules=None):
    prompt = output.with_suffix(".npy")
    np.save(prompt, tokens)
    arguments = ("--question", prompt, output, "--max-new", "4", "--step", str(step))
    command = [sys.executable, "-m", "prefill_engine.oracle", "--checkpoint", folder, *arguments]
    environment = os.environ | ({"PYTHONPATH": str(modules)} if modules else {})
    subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, env=environment
    )
    return np.load(output, allow_pickle=False)


def test_the_oracle_agrees_with_itself_and_the_engine(tmp_path):
    folder = write_random_checkpoint(tmp_path / "checkpoint", 3)
    engine = StepEngine.load(folder)
    tokens = np.random.default_rng(0).integers(0, engine.config.vocab_size, 100, dtype=np.uint32)
    whole = run_oracle(folder, tokens, tmp_path / "whole.npz", 2048)
    steps = run_oracle(folder, tokens, tmp_path / "steps.npz", 32)
    assert np.array_equal(whole["tokens"], steps["tokens"])
    assert np.abs(whole["logits"] - steps["logits"]).max() < 1e-4
    handle = engine.open(tokens)
    engine.step([(handle, 100)])
    assert np.abs(engine.last_logits(handle) - whole["logits"][0]).max() < 1e-4


def test_the_oracle_knows_none_of_our_kernels():
    program = "import sys, prefill_engine.oracle; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("prefill_")}
    assert ours == {"prefill_engine", "prefill_engine.oracle"}


def test_the_oracle_is_the_same_where_fla_is_installed(tmp_path):
    folder = write_random_checkpoint(tmp_path / "checkpoint", 3)
    tokens = np.arange(70, dtype=np.uint32)
    modules = tmp_path / "modules"
    for package in ("fla", "causal_conv1d"):
        (modules / package).mkdir(parents=True)
        (modules / package / "__init__.py").write_text(FALSE_FLA, encoding="utf-8")
    alone = run_oracle(folder, tokens, tmp_path / "alone.npz", 64)
    beside = run_oracle(folder, tokens, tmp_path / "beside.npz", 64, modules)
    assert np.array_equal(alone["tokens"], beside["tokens"])
    assert np.array_equal(alone["logits"], beside["logits"])
    used = subprocess.run(
        [sys.executable, "-c", f"{BOUND}\nchunk_kimi_delta_attention(1)"],
        env=os.environ | {"PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 active drivers" in used.stderr, "transformers did not take the false package"
