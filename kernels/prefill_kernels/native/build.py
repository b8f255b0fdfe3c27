"""Compiles the C++ sources beside this file for this very processor, once, into a private cache.

No torch headers and no build system: one compiler call of some seconds. The result is kept under
a digest of sources, flags, compiler and processor, so that whatever changes is compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = ("kda.cpp", "attention.cpp", "rows.cpp", "products.cpp", "pack.cpp", "hadamard.cpp")
HEADERS = ("simd.h", "pack.h")
COMPILERS = ("g++", "clang++", "c++")
COMPILE_SECONDS = 120
TEMPORARY = "prefill-native-"
_HERE = Path(__file__).parent
_BASE = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")


class NativeUnavailable(Exception):
    """There are no native kernels here; the message says why."""


def flag_sets() -> list[tuple[str, ...]]:
    """Flags to try in order: a compiler without OpenMP still gives one thread."""
    arm = platform.machine() in ("aarch64", "arm64")
    native = "-mcpu=native" if arm else "-march=native"
    return [(*_BASE, native, "-fopenmp"), (*_BASE, native)]


def compiled(environment: Mapping[str, str], folder: Path | None = None) -> Path:
    """Path of the shared library, compiled now unless it is kept; raises `NativeUnavailable`."""
    compiler = _compiler(environment)
    folder = cache_folder(environment) if folder is None else folder
    told = []
    for flags in flag_sets():
        target = folder / f"kernels-{_digest(compiler, flags)}.so"
        if target.is_file():
            return target
        problem = _compile(compiler, flags, target)
        if problem is None:
            return target
        told.append(problem)
    raise NativeUnavailable(f"{compiler} does not compile the kernels: {told[-1]}")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """A folder of this user alone; a temporary one where the user's cache cannot be had."""
    home = environment.get("XDG_CACHE_HOME") or environment.get("HOME")
    if home:
        below = "prefill-cloud" if environment.get("XDG_CACHE_HOME") else ".cache/prefill-cloud"
        folder = Path(home) / below / "native"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(folder) and os.access(folder, os.W_OK):
                return folder
        except OSError:
            pass  # a read-only home: the temporary folder below serves this process
    return Path(tempfile.mkdtemp(prefix=TEMPORARY))


def forget_temporary(file: Path) -> None:
    """Remove the folder of a library of this process alone, once it is loaded."""
    if file.parent.name.startswith(TEMPORARY):
        shutil.rmtree(file.parent, ignore_errors=True)


def is_private(folder: Path) -> bool:
    """Whether nobody else may put a library there that we would load."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _compiler(environment: Mapping[str, str]) -> str:
    wanted = environment.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        found = shutil.which(name, path=environment.get("PATH"))
        if found:
            return found
    raise NativeUnavailable(f"no C++ compiler: neither of {wanted or ', '.join(COMPILERS)} is here")


def _digest(compiler: str, flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    version = subprocess.run(  # noqa: S603 - the user's own compiler
        [compiler, "--version"], capture_output=True, timeout=COMPILE_SECONDS, check=False
    )
    for part in (version.stdout, " ".join(flags).encode(), _processor().encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for name in (*HEADERS, *SOURCES):
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What -march=native looks at: the flags Linux tells, or the machine's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _compile(compiler: str, flags: Sequence[str], target: Path) -> str | None:
    """Compile to a name of our own, then rename: processes may do so at the same time."""
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".so", delete=False) as fresh:
        path = Path(fresh.name)
    sources = [str(_HERE / name) for name in SOURCES]
    command = [compiler, *flags, *sources, "-o", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        path.unlink(missing_ok=True)
        return str(error)
    if done.returncode != 0:
        path.unlink(missing_ok=True)
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    path.replace(target)
    return None
