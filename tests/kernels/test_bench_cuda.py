"""The bench on a CUDA device: it says what is missing, and where its results go."""

from __future__ import annotations

import json

import pytest
import torch
from prefill_engine.bench import cuda
from prefill_engine.errors import DeviceMissing


def test_without_a_device_the_error_names_the_remedy():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(DeviceMissing, match="sees no CUDA device here; run it on a machine with"):
        cuda.require_device()


def test_results_are_kept_by_device_and_day(tmp_path):
    found = {"device": "NVIDIA H100 80GB", "date": "2026-11-25", "triton_tokens_per_second": 1}
    path = cuda.write_result(found, tmp_path / "results")
    assert path.name == "kda-nvidia-h100-80gb-2026-11-25.json"
    assert json.loads(path.read_text(encoding="utf-8")) == found
    assert cuda.version("no-such-distribution") == "not installed"
