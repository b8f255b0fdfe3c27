"""Bearer secrets: made once, shown once, kept as an HMAC.

Form: prefix, underscore, 43 characters of base62 (256 random bits), 6 of CRC-32. The checksum
turns a typing error away without a look into any table, and lets scanners recognise a leak.

Gateways check customers' API keys (`pck`) and nothing else: these are hashed with a pepper that is
derived for them, and whoever holds it can neither make nor check a proof of an operator's key
(`pco`) or of a session (`pcs`).
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from prefill_wire.ids import Random

KEY_PREFIX = "pck"
OPERATOR_PREFIX = "pco"
SESSION_PREFIX = "pcs"
PREFIXES = (KEY_PREFIX, OPERATOR_PREFIX, SESSION_PREFIX)
SECRET_BYTES = 32
BODY_CHARACTERS = 43
CHECK_CHARACTERS = 6
MAX_SECRET_CHARACTERS = 128
_API_KEYS = b"prefill-cloud 2026 proofs of API keys v1"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Secret:
    """A fresh secret: `text` for its owner, `proof` for the table."""

    text: str = field(repr=False)
    proof: str = field(repr=False)

    @property
    def last4(self) -> str:
        """What people recognise a key by."""
        return self.text[-4:]

    @property
    def prefix(self) -> str:
        """What kind of secret it is."""
        return self.text.partition("_")[0]


class Pepper:
    """The process's own key: without it the table's proofs say nothing about a guess.

    `api_keys`: the pepper that gateways have, when it is not the one derived from `key`.
    """

    def __init__(self, key: bytes, api_keys: bytes = b"") -> None:
        self._key, self._api_keys = key, api_keys or api_key_pepper(key)

    def proof(self, text: str) -> str:
        """HMAC-SHA256 of a secret, hex."""
        key = self._api_keys if text.startswith(f"{KEY_PREFIX}_") else self._key
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def new_secret(self, prefix: str, random: Random) -> Secret:
        """A secret of 256 bits from `random`."""
        return self.secret(new_text(prefix, random))

    def secret(self, text: str) -> Secret:
        """A secret whose text is known."""
        return Secret(text, self.proof(text))

    def derive(self, purpose: str, *parts: str) -> bytes:
        """32 bytes for another use, bound to `purpose` and `parts`."""
        joined = "\x00".join((purpose, *parts))
        return hmac.new(self._key, joined.encode(), hashlib.sha256).digest()


def api_key_pepper(key: bytes) -> bytes:
    """What gateways get of a pepper (HKDF-SHA256): it checks customers' API keys alone."""
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=_API_KEYS).derive(key)


def new_text(prefix: str, random: Random) -> str:
    """What a secret of 256 bits from `random` looks like to its owner."""
    body = _base62(int.from_bytes(random(SECRET_BYTES), "big"), BODY_CHARACTERS)
    return f"{prefix}_{body}{_checksum(prefix, body)}"


def well_formed(text: str, prefix: str) -> bool:
    """Whether a text can be a secret of this prefix: length, alphabet, checksum."""
    head, _, rest = text.partition("_")
    body, check = rest[:BODY_CHARACTERS], rest[BODY_CHARACTERS:]
    return (
        head == prefix
        and len(rest) == BODY_CHARACTERS + CHECK_CHARACTERS
        and rest.isascii()
        and rest.isalnum()
        and check == _checksum(prefix, body)
    )


def _checksum(prefix: str, body: str) -> str:
    return _base62(zlib.crc32(f"{prefix}_{body}".encode()), CHECK_CHARACTERS)


def _base62(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
