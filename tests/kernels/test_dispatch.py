"""Which backend runs KDA, and what each refusal says."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from prefill_kernels.dispatch import (
    Backend,
    Installed,
    KdaRefused,
    Traits,
    choose,
    verdict,
    verdicts,
)
from prefill_kernels.kda import device

ALL = Installed(native=None, triton=None, fla=None)
WIDE, NARROW = ("float32",) * 5, ("bfloat16",) * 3 + ("float32",) * 2
CPU, CUDA = Traits("cpu", WIDE, 128, 128), Traits("cuda", NARROW, 128, 128)

REFUSALS = [
    (Backend.NATIVE, CUDA, ALL, "needs cpu tensors, got cuda"),
    (Backend.NATIVE, CPU._replace(dtypes=NARROW), ALL, "needs q float32, got bfloat16"),
    (Backend.NATIVE, CPU, ALL._replace(native="no compiler"), "no compiler"),
    (Backend.NATIVE, CPU._replace(gradients=True), ALL, "gradients are asked for"),
    (Backend.TRITON, CPU, ALL, "TRITON_INTERPRET=1 in a test, got cpu"),
    (Backend.TRITON, CPU._replace(device="mps"), ALL, "needs cuda tensors, got mps"),
    (Backend.TRITON, CUDA._replace(key_dim=300), ALL, "needs K <= 256, got 300"),
    (Backend.TRITON, CUDA, Installed(), "triton was not looked for"),
    (Backend.TRITON, CUDA._replace(gradients=True), ALL, "gradients are asked for"),
    (Backend.TRITON, CUDA._replace(dtypes=("float16",) * 5), ALL, "got float16"),
    (Backend.FLA, CPU, ALL, "needs cuda tensors, got cpu"),
    (Backend.FLA, CUDA._replace(dtypes=WIDE), ALL, "needs q bfloat16, got float32"),
    (Backend.FLA, CUDA._replace(key_dim=96), ALL, "needs K a power of two <= 256, got 96"),
    (Backend.FLA, CUDA._replace(inner_bounds=3), ALL, "at ends alone, 3 bounds are inside"),
    (Backend.EAGER, CUDA, ALL, "needs cpu tensors, got cuda"),
    (Backend.EAGER, CPU._replace(dtypes=("int64",) * 5), ALL, "or float16, got int64"),
]


@pytest.mark.parametrize(("backend", "traits", "installed", "reason"), REFUSALS)
def test_a_refusal_names_limit_and_find(backend, traits, installed, reason):
    able, said = verdict(backend, traits, installed)
    assert not able
    assert reason in said


def test_every_backend_refuses_something_and_takes_its_own():
    assert {refused for refused, *_ in REFUSALS} == set(Backend)
    assert [v.able for v in verdicts(CPU, ALL).values()] == [True, False, False, True]
    assert [v.able for v in verdicts(CUDA, ALL).values()] == [False, True, True, False]


@pytest.mark.parametrize("wanted", list(Backend))
def test_what_is_approved_on_a_gpu_runs_there(monkeypatch, wanted):
    """Refused by `dispatch` with a reason, or run: nothing is approved and then left undone."""
    ran = []
    monkeypatch.setattr(device, "traits_of", lambda inputs, ends, bounds: CUDA)
    monkeypatch.setattr(device, "installed", lambda: ALL)
    for name, function in (("triton_chunk", "triton_prefill"), ("fla_chunk", "fla_prefill")):
        stand_in = ModuleType(name)
        setattr(stand_in, function, lambda *inputs, name=name, **options: ran.append(name))
        monkeypatch.setitem(sys.modules, f"prefill_kernels.kda.{name}", stand_in)
    if verdict(wanted, CUDA, ALL).able:
        device.prefill_on_device(None, [0, 1], None, (), wanted=wanted)
        assert ran == [f"{wanted}_chunk"]
        return
    with pytest.raises(KdaRefused, match=f"{wanted}: needs cpu tensors, got cuda"):
        device.prefill_on_device(None, [0, 1], None, (), wanted=wanted)


def test_bfloat16_is_never_interpreted():
    installed = ALL._replace(interpreting=True)
    assert verdict(Backend.TRITON, CPU, installed).able
    assert not verdict(Backend.TRITON, CPU._replace(dtypes=NARROW), installed).able


def test_the_first_that_can_is_chosen():
    assert choose(CPU, ALL) is Backend.NATIVE
    assert choose(CPU._replace(dtypes=("float64",) * 5), ALL) is Backend.EAGER
    assert choose(CUDA, ALL) is Backend.TRITON
    assert choose(CUDA, ALL, Backend.FLA) is Backend.FLA
    assert choose(CUDA, ALL._replace(triton="broken")) is Backend.FLA


def test_where_none_can_every_reason_is_told():
    with pytest.raises(KdaRefused, match=r"triton: needs K <= 256.*fla: needs K a power of two"):
        choose(CUDA._replace(key_dim=300), ALL)
    with pytest.raises(KdaRefused, match="fla: gives states at ends alone"):
        choose(CUDA._replace(inner_bounds=1), ALL, Backend.FLA)
