"""Byte planes: one stream a significance of byte, those worth it compressed by zstd, losslessly.

Elements are rotated left by one bit first, so that the top byte is the whole exponent and the sign
lies with the mantissa. Exponents of neighbouring values are alike, the other bits are noise; apart,
the former shrink and the latter are not slowed down by an attempt to shrink them.
Payload: `u8 version`, per plane `u8 method | u32 size`, then the planes' bytes, the lowest first.
"""

from __future__ import annotations

import struct

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.entropy import packed, unpacked
from prefill_kernels.pack.fast import buffer, kernels

VERSION = 2
_ENTRY = struct.Struct("<BI")


def encode_planes(block: np.ndarray, element: ElementType) -> bytes:
    """Code a C-contiguous array of `element`'s numpy type."""
    planes = _split(block, element)
    kept = [packed(plane) for plane in planes]
    head = (_ENTRY.pack(method, len(body)) for method, body in kept)
    return b"".join((bytes([VERSION]), *head, *(body for _, body in kept)))


def decode_planes(payload: bytes, element: ElementType, out: np.ndarray) -> None:
    """Write a payload into `out`; every size is checked before anything is unpacked."""
    count = element.item_bytes
    position = 1 + count * _ENTRY.size
    if len(payload) < position:
        raise PackError(f"payload of {len(payload)} bytes, its table alone has {position}")
    if payload[0] != VERSION:
        raise PackError(f"planes of version {payload[0]}, this is {VERSION}")
    entries = [_ENTRY.unpack_from(payload, 1 + plane * _ENTRY.size) for plane in range(count)]
    declared = position + sum(size for _, size in entries)
    if declared != len(payload):
        raise PackError(f"payload of {len(payload)} bytes, its table declares {declared}")
    view, planes = memoryview(payload), []
    for method, size in entries:
        planes.append(unpacked(method, view[position : position + size], out.size))
        position += size
    _merge(planes, element, out)


def _split(block: np.ndarray, element: ElementType) -> np.ndarray:
    """Planes `[item_bytes, items]` of rotated elements."""
    library, count = kernels(block, element), element.item_bytes
    if library is None:
        words = block.reshape(-1).view(f"<u{count}")
        rotated = (words << 1) | (words >> (8 * count - 1))
        return np.ascontiguousarray(rotated.view(np.uint8).reshape(-1, count).T)
    planes = buffer(block.nbytes).reshape(count, block.size)
    library.prefill_split(block.ctypes.data, planes.ctypes.data, block.size, count)
    return planes


def _merge(planes: list[np.ndarray], element: ElementType, out: np.ndarray) -> None:
    library, count = kernels(out, element), element.item_bytes
    if library is None:
        rotated = np.stack(planes, axis=1).reshape(-1).view(f"<u{count}")
        words = (rotated >> 1) | (rotated << (8 * count - 1))
        out.reshape(-1).view(words.dtype)[...] = words
        return
    addresses = np.array([plane.ctypes.data for plane in planes], np.uintp)
    library.prefill_merge(addresses.ctypes.data, out.ctypes.data, out.size, count)
