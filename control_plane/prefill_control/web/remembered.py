"""Idempotency-Key: the same key and request give the first answer again, for a day.

The answer may hold a secret that is shown once, so it lies sealed under a key that only the
caller's Idempotency-Key and this process's pepper make together.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from prefill_control.access.secrets import Pepper
from prefill_control.errors import ControlError, ProblemCode, invalid
from prefill_control.web.models import RememberedAnswer

KEY = re.compile("[!-~]{1,128}")
REMEMBERED = dt.timedelta(hours=24)
NONCE = bytes(12)  # every sealing key is used once: it is bound to tenant, key and body


class Answer(msgspec.Struct, frozen=True):
    """A response as it was sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """One request under an Idempotency-Key; `body_digest` covers method, path and body."""

    tenant_id: str
    key_digest: str
    body_digest: str
    sealing_key: bytes = field(repr=False)


def asked_under(pepper: Pepper, key: str, tenant_id: str, request: tuple[str, str, bytes]) -> Asked:
    """Checks the key's form; `request` is method, path with query, and body."""
    if not KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "1 to 128 visible ASCII characters")
    method, path, body = request
    digest = hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()
    return Asked(
        tenant_id=tenant_id,
        key_digest=pepper.derive("idempotency key", tenant_id, key).hex(),
        body_digest=digest,
        sealing_key=pepper.derive("idempotent answer", tenant_id, key, digest),
    )


async def recall(session: AsyncSession, asked: Asked, now: dt.datetime) -> Answer | None:
    """The first answer, or None for a new key; waits for one that is being made right now."""
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
    await session.execute(lock, {"key": asked.key_digest})
    row = await session.scalar(
        select(RememberedAnswer).where(
            RememberedAnswer.tenant_id == asked.tenant_id,
            RememberedAnswer.key_digest == asked.key_digest,
            RememberedAnswer.created_at > now - REMEMBERED,
        )
    )
    if row is None:
        return None
    if row.body_digest != asked.body_digest:
        raise ControlError(
            ProblemCode.IDEMPOTENCY_CONFLICT, "this Idempotency-Key was used for another request"
        )
    try:
        opened = AESGCM(asked.sealing_key).decrypt(NONCE, row.sealed, None)
    except InvalidTag:
        raise ControlError(ProblemCode.INTERNAL, "the remembered answer cannot be opened") from None
    return msgspec.msgpack.decode(opened, type=Answer)


async def remember(session: AsyncSession, asked: Asked, answer: Answer, now: dt.datetime) -> None:
    """Keep an answer in the transaction that it tells of; old ones of the tenant go."""
    old = delete(RememberedAnswer).where(
        RememberedAnswer.tenant_id == asked.tenant_id,
        RememberedAnswer.created_at <= now - REMEMBERED,
    )
    await session.execute(old)
    sealed = AESGCM(asked.sealing_key).encrypt(NONCE, msgspec.msgpack.encode(answer), None)
    await session.execute(
        insert(RememberedAnswer).values(
            tenant_id=asked.tenant_id,
            key_digest=asked.key_digest,
            body_digest=asked.body_digest,
            status=answer.status,
            sealed=sealed,
            created_at=now,
        )
    )
