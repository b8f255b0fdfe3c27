"""API keys from a file of hashes: who a caller is. The file is read again when it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec
import structlog
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError, SettingsError

log = structlog.get_logger()
MAX_SECRET_BYTES = 256


class KeyStatus(StrEnum):
    """What a check of a key comes to."""

    VALID = "VALID"
    NOT_FOUND = "NOT_FOUND"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"


CODES: Mapping[KeyStatus, StatusCode] = {
    KeyStatus.VALID: StatusCode.OK,
    KeyStatus.NOT_FOUND: StatusCode.KEY_NOT_FOUND,
    KeyStatus.REVOKED: StatusCode.KEY_REVOKED,
    KeyStatus.EXPIRED: StatusCode.KEY_EXPIRED,
    KeyStatus.RATE_LIMITED: StatusCode.RATE_LIMITED,
    KeyStatus.QUOTA_EXCEEDED: StatusCode.QUOTA_EXCEEDED,
    KeyStatus.BUDGET_EXHAUSTED: StatusCode.BUDGET_EXHAUSTED,
    KeyStatus.TENANT_SUSPENDED: StatusCode.TENANT_SUSPENDED,
}


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as the file knows it: the SHA-256 of its secret, hex; `expires_at_ms` 0 means never."""

    key_id: str
    tenant: str
    sha256: str
    status: KeyStatus
    expires_at_ms: int = 0


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]


class KeyFile:
    """Checks secrets against a file; a damaged new version leaves the last good one in force."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._path, self._now_ms = path, now_ms
        self._keys = _read(path)
        self._seen: tuple[int, int, int] | None = self._stamp()

    def check(self, metadata: Iterable[tuple[str, str | bytes]]) -> ApiKey:
        """The caller's key from `authorization: Bearer ...`; a typed refusal by its KeyStatus."""
        self._refresh()
        shown = dict(metadata).get("authorization", "")
        scheme, _, secret = (shown if isinstance(shown, str) else "").partition(" ")
        key = None
        if scheme.lower() == "bearer" and len(secret) <= MAX_SECRET_BYTES:
            key = self._keys.get(hashlib.sha256(secret.encode()).hexdigest())
        status = self._status(key)
        if key is None or status is not KeyStatus.VALID:
            name = "the API key" if key is None else f"API key {key.key_id}"
            raise DataPlaneError(CODES[status], f"{name}: {status.lower().replace('_', ' ')}")
        return key

    def _status(self, key: ApiKey | None) -> KeyStatus:
        if key is None:
            return KeyStatus.NOT_FOUND
        if key.status is KeyStatus.VALID and 0 < key.expires_at_ms <= self._now_ms():
            return KeyStatus.EXPIRED
        return key.status

    def _stamp(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _refresh(self) -> None:
        try:
            stamp = self._stamp()
        except OSError:
            stamp = None
        if stamp == self._seen:
            return
        self._seen = stamp  # also of a damaged version: it is named once, not at every call
        try:
            self._keys = _read(self._path)
        except SettingsError as error:
            log.error("key file", reason=str(error))


def _read(path: Path) -> dict[str, ApiKey]:
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} is no key file: {error}", "correct PREFILL_KEY_FILE") from None
    return {key.sha256: key for key in document.keys}
