"""The kernels become code for GPUs that are not here, within their shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("compile_for.py")
KERNELS = {
    *("score_parts", "solve_keys", "solve_values", "walk", "step"),
    *("encode_row", "decode_row", "mix", "encode_groups", "decode_groups"),
}
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # that a block can have: A100, H100
SPILT_BYTES = 128  # a thread's: 80 were seen with float32; hundreds would be a bad tile size
LONG = pytest.mark.nightly


@pytest.mark.parametrize(
    ("architecture", "dtype", "dim"),
    [
        (90, "bfloat16", 32),
        pytest.param(80, "bfloat16", 128, marks=LONG),
        pytest.param(90, "bfloat16", 128, marks=LONG),
        pytest.param(90, "bfloat16", 256, marks=LONG),
        pytest.param(90, "float32", 128, marks=LONG),
    ],
)
def test_every_kernel_compiles_into_what_a_card_has(tmp_path, architecture, dtype, dim):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(PROGRAM), str(architecture), dtype, str(dim)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == KERNELS
    for name, use in found.items():
        assert use["shared_bytes"] <= SHARED_BYTES[architecture], name
        assert use["spilt_bytes"] <= SPILT_BYTES, name
