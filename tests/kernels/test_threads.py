"""A tiny step stays on the thread that calls: another one, woken and waiting, costs more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prefill_kernels.native import native

PROGRAM = """
import os, sys, torch
from prefill_kernels.attention import Expanded, Heads, attend
from prefill_kernels.kda.layer import KdaRows, KdaWeights, run_layer
from prefill_kernels.kda.fast import prefill_kda
from prefill_kernels.kda.packed import KdaInputs
from prefill_kernels.products import Factor, multiply
from prefill_engine.workspace import Workspace

draw = lambda *shape: torch.zeros(*shape)


def work(what, tokens):
    if what == "product":
        x, factor, out = draw(tokens, 128), Factor.of(draw(514, 128)), draw(tokens, 514)
        return lambda: multiply(x, factor, out)
    if what == "attention":
        block = Expanded(draw(tokens, 2, 64), draw(tokens, 16))
        heads, q, out = Heads(2, 32, 16, 32, 0.1), draw(tokens, 2, 48), draw(tokens, 2, 32)
        return lambda: attend(q, heads, [lambda: block], Workspace().take, out)
    if what == "kda layer":
        weights = KdaWeights(draw(4, 384), draw(2), draw(64), 1e-5)
        rows = KdaRows(draw(tokens, 386), draw(tokens, 128), draw(tokens, 128))
        places = draw(3, 384), draw(2, 64, 64), draw(tokens, 128)
        return lambda: run_layer(weights, rows, *places)
    inputs = KdaInputs(*(draw(tokens, 2, 64) for _ in range(4)), draw(tokens, 2))
    return lambda: prefill_kda(inputs)


torch.set_num_threads(1)  # what is made beforehand wakes nobody
runs = [work(sys.argv[1], tokens) for tokens in (7, 512)]
torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
for run in runs:
    run()
    print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize("what", ["product", "attention", "kda layer", "kda"])
def test_a_tiny_step_wakes_no_other_thread_and_a_large_one_does(what):
    if native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what],
        capture_output=True, text=True, env=environment, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1"]  # threads made by the tiny call, and by both
