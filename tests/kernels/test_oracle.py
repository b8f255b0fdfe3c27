"""The oracle's process: its steps change nothing, and it loads none of our kernels."""

import subprocess
import sys

import numpy as np
from prefill_engine.engine import StepEngine
from prefill_engine.random_checkpoint import write_random_checkpoint


def run_oracle(folder, tokens, output, step):
    prompt = output.with_suffix(".npy")
    np.save(prompt, tokens)
    arguments = ("--question", prompt, output, "--max-new", "4", "--step", str(step))
    command = [sys.executable, "-m", "prefill_engine.oracle", "--checkpoint", folder, *arguments]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
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
