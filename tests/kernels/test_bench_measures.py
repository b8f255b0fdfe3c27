"""Measures of a bench run in processes of their own, and count nothing of who started them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prefill_engine.bench.measures import measure
from prefill_engine.bench.peak_memory import peak_bytes

CODE_LM = Path(__file__).parents[2] / "kernels/prefill_engine/checkpoints/code-lm"
BALLAST_BYTES = 1 << 30
SAY_MAXRSS = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


@pytest.fixture
def ballast():
    return np.ones(BALLAST_BYTES, dtype=np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux does with ru_maxrss")
def test_a_peak_is_not_that_of_the_process_that_asked(ballast):
    assert 100 << 20 < peak_bytes(CODE_LM, 64) < ballast.nbytes
    # The twin: what getrusage says of a child begins at its parent's peak.
    said = subprocess.run([sys.executable, "-c", SAY_MAXRSS], capture_output=True, check=True)
    assert int(said.stdout) > ballast.nbytes


def test_a_measure_gives_both_sides():
    found = measure("prefill", CODE_LM, 8)
    assert found.keys() == {"ours_seconds", "theirs_seconds"}
    assert all(seconds > 0 for seconds in found.values())


def test_a_measure_that_fails_tells_why():
    with pytest.raises(RuntimeError, match="nowhere"):
        measure("our_prefill", CODE_LM.parent / "nowhere", 8)
