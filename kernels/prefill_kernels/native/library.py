"""The compiled kernels as Python functions on addresses, and why there are none where so."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefill_kernels.native.build import NativeUnavailable, compiled, forget_temporary

SWITCH = "PREFILL_NATIVE"  # "off" leaves the eager forms alone
_ADDRESS, _COUNT, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
Signature = tuple[Any, ...]  # the types of a function's arguments
PACK: Mapping[str, Signature] = {  # see pack.cpp and hadamard.cpp
    "prefill_int8_encode": (*(_ADDRESS,) * 3, _COUNT, _COUNT, ctypes.c_int, _ADDRESS),
    "prefill_int8_decode": (*(_ADDRESS,) * 3, _COUNT, _COUNT, ctypes.c_int),
    "prefill_fp8_encode": (*(_ADDRESS,) * 3, _COUNT, _COUNT, ctypes.c_int, _ADDRESS),
    "prefill_fp8_decode": (*(_ADDRESS,) * 3, _COUNT, _COUNT, ctypes.c_int),
    "prefill_int12_encode": (*(_ADDRESS,) * 4, _COUNT, _COUNT, ctypes.c_int, _ADDRESS),
    "prefill_int12_decode": (*(_ADDRESS,) * 4, _COUNT, _COUNT, ctypes.c_int),
    "prefill_bf16_encode": (_ADDRESS, _ADDRESS, _COUNT, ctypes.c_int, _ADDRESS),
    "prefill_bf16_decode": (_ADDRESS, _ADDRESS, _COUNT, ctypes.c_int),
    "prefill_hadamard_int8_encode": (*(_ADDRESS,) * 3, *(_COUNT,) * 3, ctypes.c_int, _ADDRESS),
    "prefill_hadamard_int8_decode": (*(_ADDRESS,) * 3, *(_COUNT,) * 3, ctypes.c_int),
    "prefill_hadamard_int4_encode": (*(_ADDRESS,) * 3, _COUNT, ctypes.c_int, _ADDRESS),
    "prefill_hadamard_int4_decode": (*(_ADDRESS,) * 3, _COUNT, ctypes.c_int),
    "prefill_split": (_ADDRESS, _ADDRESS, _COUNT, ctypes.c_int),
    "prefill_merge": (_ADDRESS, _ADDRESS, _COUNT, ctypes.c_int),
}
_REFUSING = (*(name for name in PACK if name.endswith("encode")), "prefill_bf16_decode")
_logger = logging.getLogger(__name__)


class KdaCall(ctypes.Structure):
    """Arguments of `prefill_kda_call`; see kda.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("q", "k", "v", "g", "beta", "out", "states")),
        *((name, _ADDRESS) for name in ("starts", "bounds", "bound_states")),
        *((name, _COUNT) for name in ("sequences", "bound_count", "heads", "key_dim")),
        *((name, _COUNT) for name in ("value_dim", "threads")),
    ]


class KdaLayer(ctypes.Structure):
    """Arguments of `prefill_kda_layer`; see kda.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("raw", "history", "conv", "gate", "out_gate", "decay")),
        *((name, _ADDRESS) for name in ("norm", "out", "state", "bounds", "bound_states")),
        *((name, _COUNT) for name in ("tokens", "raw_row", "beta_column", "bound_count")),
        *((name, _COUNT) for name in ("heads", "dim", "threads")),
        ("eps", _REAL),
    ]


class ProductCall(ctypes.Structure):
    """Arguments of `prefill_product`; see products.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("x", "factor", "bias", "scale", "from", "to", "out")),
        *((name, _COUNT) for name in ("x_row", "out_row", "rows", "inner", "columns")),
        *((name, _COUNT) for name in ("add", "threads")),
    ]


class AttentionCall(ctypes.Structure):
    """Arguments of `prefill_attention`; see attention.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("q", "expanded", "rope", "packed", "running", "out")),
        *((name, _COUNT) for name in ("tokens", "q_row", "keys", "rope_row", "heads", "nope")),
        *((name, _COUNT) for name in ("rope_dim", "value", "threads", "first", "last", "causal")),
        ("scale", _REAL),
    ]


@dataclass(frozen=True)
class Native:
    """The library, or None and the reason."""

    library: Any
    reason: str = ""


@cache
def native() -> Native:
    """Compile or find the kernels, once a process. torch comes first: one OpenMP for both."""
    if os.environ.get(SWITCH) == "off":
        return Native(None, f"{SWITCH}=off")
    try:
        file = compiled(os.environ)
        library = ctypes.CDLL(str(file))
        forget_temporary(file)
    except (NativeUnavailable, OSError) as error:
        _logger.warning("native kernels are not used: %s", error)
        return Native(None, str(error))
    _declare(library)
    return Native(library)


def _declare(library: ctypes.CDLL) -> None:
    signatures: dict[str, Signature] = {
        "prefill_kda_call": (ctypes.POINTER(KdaCall),),
        "prefill_kda_layer": (ctypes.POINTER(KdaLayer),),
        "prefill_product": (ctypes.POINTER(ProductCall),),
        "prefill_attention": (ctypes.POINTER(AttentionCall),),
        "prefill_rms_norm": (
            *(_ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _COUNT, _COUNT, _REAL, _COUNT),
        ),
        "prefill_swiglu": (_ADDRESS, _ADDRESS, _COUNT, _COUNT, _COUNT),
        **PACK,
    }
    declare(library, signatures)


def declare(library: ctypes.CDLL, signatures: Mapping[str, Signature]) -> None:
    """Tell ctypes what these functions take and give."""
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int if name in _REFUSING else None
