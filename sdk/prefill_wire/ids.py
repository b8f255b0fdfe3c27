"""Identifiers: a prefix that says what they name, then 26 characters of base32 (130 bits)."""

from __future__ import annotations

import re
from collections.abc import Callable

from prefill_wire.errors import WireError

Random = Callable[[int], bytes]
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u to misread
_PATTERN = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")


def new_id(prefix: str, random: Random) -> str:
    """`prefix`, an underscore and 130 random bits."""
    value = int.from_bytes(random(17), "big")
    return f"{prefix}_" + "".join(_ALPHABET[(value >> 5 * i) & 31] for i in range(26))


def new_request_id(random: Random) -> str:
    """A request: what a caller quotes to support."""
    return new_id("req", random)


def new_receipt_id(random: Random) -> str:
    """A receipt: the ledger's dedupe key."""
    return new_id("rcp", random)


def check_id(text: str, prefix: str) -> str:
    """`text` itself when it is an id of this kind; `WireError` otherwise."""
    if not _PATTERN.fullmatch(text) or not text.startswith(f"{prefix}_"):
        raise WireError(f"not an id of kind {prefix!r}: {text[:40]!r}")
    return text
