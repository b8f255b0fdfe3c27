"""`bench --device`: only what has a side on a GPU runs there."""

import pytest
from prefill_stack.benches import prefill
from prefill_stack.commands.bench import _measure
from prefill_stack.errors import NotConfigured


def test_a_bench_without_a_side_on_the_device_is_refused():
    with pytest.raises(NotConfigured, match="bench codec does not run on cuda"):
        _measure("codec", "cuda")
    with pytest.raises(NotConfigured, match="bench prefill does not run on tpu"):
        _measure("prefill", "tpu")


def test_prefill_has_a_side_on_each():
    assert _measure("prefill", "cpu") is prefill.run
    assert _measure("prefill", "cuda") is prefill.run_cuda
