"""Which backend runs KDA: pure rules over what a call is and what is installed.

Every refusal has a reason that names the limit and what was found. `verdicts` is the whole table.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

LARGEST_KEY_DIM = 256  # four tiles of 64 rows of the state in registers
INPUTS = ("q", "k", "v", "g", "beta")
WIDE, NARROW = "float32", "bfloat16"
FLOATS = ("float64", WIDE, NARROW, "float16")


class Backend(StrEnum):
    """Who can run KDA, in the order in which they are asked."""

    NATIVE = "native"
    TRITON = "triton"
    FLA = "fla"
    EAGER = "eager"


class Traits(NamedTuple):
    """What a call is: device, the types of q, k, v, g and beta, head sizes, and what it asks for.

    `inner_bounds` counts bounds that are no sequence's end.
    """

    device: str
    dtypes: tuple[str, ...]
    key_dim: int
    value_dim: int
    gradients: bool = False
    inner_bounds: int = 0


class Installed(NamedTuple):
    """What cannot be had here and why, empty where it can; whether Triton only interprets."""

    native: str | None = "native kernels were not looked for"
    triton: str | None = "triton was not looked for"
    fla: str | None = "fla was not looked for"
    interpreting: bool = False


class Verdict(NamedTuple):
    """Whether a backend takes a call, and if not why."""

    able: bool
    reason: str = ""


class KdaRefused(Exception):
    """No backend takes the call, or not the one asked for; says what each has against it."""


Rule = Callable[[Traits, Installed], str | None]


def _here(name: str) -> Rule:
    return lambda traits, installed: getattr(installed, name)


def _on(device: str) -> Rule:
    def rule(traits: Traits, installed: Installed) -> str | None:
        return None if traits.device == device else f"needs {device} tensors, got {traits.device}"

    return rule


def _types(*allowed: str, only: tuple[str, ...] = INPUTS) -> Rule:
    def rule(traits: Traits, installed: Installed) -> str | None:
        for name, dtype in zip(INPUTS, traits.dtypes, strict=True):
            if name in only and dtype not in allowed:
                return f"needs {name} {' or '.join(allowed)}, got {dtype}"
        return None

    return rule


def _no_gradients(traits: Traits, installed: Installed) -> str | None:
    return "gradients are asked for, this is inference alone" if traits.gradients else None


def _key_dim(traits: Traits, installed: Installed) -> str | None:
    fits = traits.key_dim <= LARGEST_KEY_DIM
    return None if fits else f"needs K <= {LARGEST_KEY_DIM}, got {traits.key_dim}"


def _fla_key_dim(traits: Traits, installed: Installed) -> str | None:
    power = traits.key_dim.bit_count() == 1 and traits.key_dim <= LARGEST_KEY_DIM
    return None if power else f"needs K a power of two <= {LARGEST_KEY_DIM}, got {traits.key_dim}"


def _triton_device(traits: Traits, installed: Installed) -> str | None:
    if traits.device == "cuda":
        return None
    if traits.device != "cpu":
        return f"needs cuda tensors, got {traits.device}"
    if not installed.interpreting:
        return "needs cuda tensors, or TRITON_INTERPRET=1 in a test, got cpu"
    # tl.dot on bfloat16 is silently wrong in the interpreter
    return _types(WIDE)(traits, installed)


def _ends_only(traits: Traits, installed: Installed) -> str | None:
    count = traits.inner_bounds
    return f"gives states at ends alone, {count} bounds are inside" if count else None


RULES: dict[Backend, tuple[Rule, ...]] = {
    Backend.NATIVE: (_here("native"), _on("cpu"), _types(WIDE), _no_gradients),
    Backend.TRITON: (
        _here("triton"),
        _triton_device,
        _types(WIDE, NARROW),
        _key_dim,
        _no_gradients,
    ),
    Backend.FLA: (
        _here("fla"),
        _on("cuda"),
        # it multiplies float32 as tf32, which is no float32
        _types(NARROW, only=("q", "k", "v")),
        _types(WIDE, NARROW, only=("g", "beta")),
        _fla_key_dim,
        _ends_only,
        _no_gradients,
    ),
    # on a GPU it is thousands of small launches, so nothing there runs it
    Backend.EAGER: (_on("cpu"), _types(*FLOATS)),
}
ON_CPU = (Backend.NATIVE, Backend.EAGER)
ON_GPU = (Backend.TRITON, Backend.FLA)


def verdict(backend: Backend, traits: Traits, installed: Installed) -> Verdict:
    """The first reason against it, if there is one."""
    for rule in RULES[backend]:
        reason = rule(traits, installed)
        if reason is not None:
            return Verdict(False, reason)
    return Verdict(True)


def verdicts(traits: Traits, installed: Installed) -> dict[Backend, Verdict]:
    """What every backend says to this call."""
    return {backend: verdict(backend, traits, installed) for backend in Backend}


def choose(traits: Traits, installed: Installed, wanted: Backend | None = None) -> Backend:
    """The first backend for this device that takes the call, or the wanted one, or `KdaRefused`."""
    by_device = ON_CPU if traits.device == "cpu" else ON_GPU
    candidates = by_device if wanted is None else (wanted,)
    against = []
    for backend in candidates:
        able, reason = verdict(backend, traits, installed)
        if able:
            return backend
        against.append(f"{backend}: {reason}")
    raise KdaRefused(f"no backend runs KDA on {traits.device}: {'; '.join(against)}")
