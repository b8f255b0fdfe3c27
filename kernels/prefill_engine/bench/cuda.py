"""KDA on a CUDA device: ours and fla's against the memory and matrix roofs of the same run.

Nothing is timed before its answers were held to the float64 recurrence on the same device.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from prefill_kernels.dispatch import Backend
from prefill_kernels.kda import KdaInputs, KdaResult, naive_kda
from prefill_kernels.kda.device import prefill_on_device
from torch import Tensor
from torch.nn import functional

from prefill_engine.bench.kda import flops_per_token_and_head
from prefill_engine.errors import DeviceMissing

HEADS, DIM = 32, 128  # of the released model
TOKENS, CHECKED_TOKENS, SEQUENCES = 16_384, 512, 64
ROUNDS, WARM = 50, 5
GEMM, COPY_BYTES = 8_192, 1 << 30
TOLERANCE = 1e-2  # bfloat16 inputs: relative, of outputs and of states
PACKAGES = ("torch", "triton", "flash-linear-attention")
RESULTS = Path(__file__).resolve().parents[2] / "results"
REMEDY = "run it on a machine with an NVIDIA GPU, a CUDA build of torch and triton (extra [gpu])"


def require_device() -> None:
    """`DeviceMissing` unless there is a CUDA device and Triton to run on it."""
    if not torch.cuda.is_available():
        raise DeviceMissing(f"torch {torch.__version__} sees no CUDA device here", REMEDY)
    if find_spec("triton") is None:
        raise DeviceMissing("triton is not installed", REMEDY)


def measure(today: date) -> dict[str, object]:
    """Medians by CUDA events; needs a device."""
    require_device()
    sides = [Backend.TRITON] + ([Backend.FLA] if find_spec("fla") else [])
    found: dict[str, object] = {
        "date": today.isoformat(),
        "device": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in PACKAGES},
        "shape": {"tokens": TOKENS, "heads": HEADS, "dim": DIM, "dtype": "bfloat16"},
        "errors": {side.value: worst_error(side) for side in sides},
        "memory_gbytes_per_s": round(memory_roof() / 1e9, 1),
        "matmul_tflops_per_s": round(matmul_roof() / 1e12, 1),
    }
    inputs, state = draw(TOKENS)
    for side in sides:
        seconds = median_seconds(lambda side=side: run(side, inputs, state))  # type: ignore[misc]
        flops = flops_per_token_and_head() * HEADS * TOKENS / seconds
        found[f"{side}_tokens_per_second"] = round(TOKENS / seconds)
        found[f"{side}_tflops_per_s"] = round(flops / 1e12, 2)
    found["step_gbytes_per_s"] = round(step_speed() / 1e9, 1)
    return found


def write_result(found: dict[str, object], folder: Path = RESULTS) -> Path:
    """A file of its own for each device and day."""
    folder.mkdir(exist_ok=True)
    device = "-".join(str(found["device"]).lower().split())
    path = folder / f"kda-{device}-{found['date']}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return path


def version(name: str) -> str:
    """What is installed, or that it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def draw(length: int) -> tuple[KdaInputs, Tensor]:
    """bfloat16 q, k, v and float32 g, beta, state at the gates of a trained model."""
    random = torch.Generator("cuda").manual_seed(0)
    shape = (4, length, HEADS, DIM)
    q, k, v, gate = torch.randn(shape, generator=random, device="cuda").unbind(0)
    q, k = functional.normalize(q, dim=-1) * DIM**-0.5, functional.normalize(k, dim=-1)
    beta = torch.rand(length, HEADS, generator=random, device="cuda")
    state = torch.randn(1, HEADS, DIM, DIM, generator=random, device="cuda")
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    return KdaInputs(q, k, v, -0.1 * functional.softplus(gate), beta), state


def run(side: Backend, inputs: KdaInputs, state: Tensor) -> KdaResult:
    """One sequence from a carried state, by this backend."""
    return prefill_on_device(inputs, [0, inputs.v.shape[0]], state, (), wanted=side)


def worst_error(side: Backend) -> float:
    """Relative error against float64, outputs or states; `DeviceMissing` where it is too large."""
    inputs, state = draw(CHECKED_TOKENS)
    done = run(side, inputs, state)
    q, k, v, g, beta = (tensor.double()[None] for tensor in inputs)
    out, last = naive_kda(q, k, v, g, beta, state.double())
    pairs = ((done.out, out[0]), (done.states, last))
    worst = max(float((got.double() - ref).norm() / ref.norm()) for got, ref in pairs)
    if not worst <= TOLERANCE:  # NaN compares false
        raise DeviceMissing(
            f"{side} is off by {worst:.1e} on this device, the bound is {TOLERANCE}",
            "`make test-gpu` shows where; a wrong kernel is not timed",
        )
    return worst


def median_seconds(work: Callable[[], object]) -> float:
    """Of ROUNDS runs after WARM ones that do not count, between CUDA events."""
    for _ in range(WARM):
        work()
    event: Any = torch.cuda.Event  # untyped in torch
    times: list[float] = []
    for _ in range(ROUNDS):
        begin, end = (event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def memory_roof() -> float:
    """Bytes read and written a second by a copy."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / median_seconds(lambda: target.copy_(source))


def matmul_roof() -> float:
    """Multiplications and additions a second of one large bfloat16 product."""
    left, right = torch.randn(2, GEMM, GEMM, device="cuda").bfloat16().unbind(0)
    return 2 * GEMM**3 / median_seconds(lambda: left @ right)


def step_speed() -> float:
    """Bytes of state read and written a second by decode steps of many sequences."""
    from prefill_kernels.kda.triton_chunk import triton_step

    inputs, state = draw(SEQUENCES)
    states = state.expand(SEQUENCES, -1, -1, -1).contiguous()
    return 2 * states.nbytes / median_seconds(lambda: triton_step(inputs, states))
