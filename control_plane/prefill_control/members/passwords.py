"""Passwords: argon2id, off the event loop, and as slow for a stranger as for a member."""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

LEAST_CHARACTERS = 12
MOST_CHARACTERS = 200
# RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes.
_HASHER = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=4, type=Type.ID)
# Of a password that nobody has: an unknown address takes as long as a known one.
_NOBODY = _HASHER.hash("a password that nobody has")


async def hash_password(password: str) -> str:
    """The argon2id hash with its parameters and salt."""
    return await asyncio.to_thread(_HASHER.hash, password)


async def password_fits(stored: str, password: str) -> bool:
    """Whether the password is the one of this hash; an empty hash fits nothing, as slowly."""
    return await asyncio.to_thread(_verify, stored, password)


def _verify(stored: str, password: str) -> bool:
    try:
        fits = _HASHER.verify(stored or _NOBODY, password)
    except VerificationError:
        return False
    return fits and bool(stored)
