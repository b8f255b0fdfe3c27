"""Compiles the kernels for a GPU that is not here: `compile_for.py ARCHITECTURE TYPE SIZE`.

Goes the way of a real launch (binding, specialisation, code, ptxas) up to loading the binary, with
a driver that names the architecture. Prints one JSON object: shared and spilt bytes of each kernel.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from prefill_kernels.kda import KdaInputs, triton_chunk, triton_kernels
from prefill_kernels.pack import triton_hadamard
from prefill_kernels.pack import triton_kernels as row_kernels
from prefill_kernels.pack.triton_rows import EXACT
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

KERNELS = ("score_parts", "solve_keys", "solve_values", "walk", "step")


class AbsentDevice:
    """What compiling asks a driver for."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """Stands for a kernel: compiles what a launch would run, and runs nothing."""

    def __init__(self, module: ModuleType, name: str, into: dict[str, dict[str, int]]) -> None:
        self.name, self.kernel, self.into = name, getattr(module, name), into

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.compile(grid, arguments, options)

    def compile(self, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Any) -> None:
        built = self.kernel.run(*arguments, grid=grid, warmup=True, **options)
        spilt = spilt_bytes(built.asm["cubin"])
        use = {"shared_bytes": built.metadata.shared, "spilt_bytes": spilt}
        before = self.into.get(self.name, use)
        self.into[self.name] = {what: max(count, before[what]) for what, count in use.items()}


def spilt_bytes(binary: bytes) -> int:
    """Bytes of stack a thread needs, which these kernels use for spilt registers alone."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return max(int(stack) for stack in re.findall(r"STACK:(\d+)", said))


def main() -> None:
    architecture, dtype, dim = int(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3])
    found: dict[str, dict[str, int]] = {}
    for name in KERNELS:
        setattr(triton_kernels, name, Compiled(triton_kernels, name, found))
    driver.set_active(AbsentDevice(architecture))
    rows, state = torch.zeros(70, 2, dim, dtype=dtype), torch.zeros(70, 2, dim, dim)
    inputs = KdaInputs(rows, rows, rows, rows.float(), torch.zeros(70, 2))
    triton_chunk.triton_prefill(inputs, bounds=[64])
    triton_chunk.triton_step(inputs, state)
    codes, scales = rows.to(torch.int8), torch.zeros(140, dtype=torch.int16)
    sizes = (rows.numel(), dim)
    mixed, factors = torch.zeros(rows.numel()), torch.zeros(140)
    encode = Compiled(row_kernels, "encode_row", found)
    encode[(140,)](rows, scales, codes, torch.zeros(140), *sizes, 0.5, WIDTH=dim, **EXACT)
    decode = Compiled(row_kernels, "decode_row", found)
    decode[(140,)](codes, scales, rows, *sizes, WIDTH=dim, **EXACT)
    for name in ("mix", "encode_groups", "decode_groups"):
        setattr(row_kernels, name, Compiled(row_kernels, name, found))
    for given, target, step in ((rows, mixed, 1), (mixed, rows, dim)):
        triton_hadamard.mix_lines(given, target, (140, dim, step), factors if step == 1 else None)
    triton_hadamard.decode_hadamard_int4(triton_hadamard.encode_hadamard_int4(rows).zero_(), rows)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
