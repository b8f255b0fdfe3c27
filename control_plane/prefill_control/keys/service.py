"""The life of an API key. Its secret is in the answer to create and rotate, and nowhere else."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from prefill_wire.ids import new_id

from prefill_control.access.scopes import Scope, expand
from prefill_control.access.secrets import KEY_PREFIX, OPERATOR_PREFIX, Pepper, Secret
from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import ControlError, ProblemCode, invalid
from prefill_control.etags import check_version
from prefill_control.keys import repository
from prefill_control.keys.errors import no_such_key, not_active
from prefill_control.keys.models import ApiKey
from prefill_control.pages import PageOf, PageRequest
from prefill_control.tenants.models import PLATFORM_TENANT
from prefill_control.work import Work

MAX_OVERLAP = dt.timedelta(days=30)
MAX_YEARS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDraft:
    """A key to be: networks are addresses or CIDR ranges; no expiry means until revoked."""

    name: str
    scopes: Sequence[str]
    addresses: Sequence[str] = ()
    expires_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key and its secret, for the one answer that shows it."""

    key: ApiKey
    secret: Secret


async def create(
    work: Work, pepper: Pepper, draft: KeyDraft, secret: Secret | None = None
) -> Issued:
    """A new key of the work's tenant, with no more rights than its maker has.

    `secret`: one that its owner has kept already; a fresh one otherwise.
    """
    scopes = check_scopes(work, draft.scopes)
    issued = _issue(work, secret or _secret(work, pepper, work.tenant_id), draft.name)
    key = issued.key
    key.scopes = scopes
    key.addresses = networks(draft.addresses)
    key.expires_at = check_expiry(work, draft.expires_at)
    work.session.add(key)
    await work.session.flush()
    record(work, Change("keys.create", "key", key.id, None, picture(key)))
    return issued


async def read(work: Work, key_id: str) -> ApiKey:
    """The key; NOT_FOUND for an absent one and for somebody else's."""
    key = await repository.find(work.session, key_id)
    if key is None:
        raise no_such_key()
    return key


async def page(work: Work, state: str, asked: PageRequest) -> PageOf[ApiKey]:
    """Keys that the caller may see."""
    return await repository.page(work.session, state, asked)


async def change(work: Work, key_id: str, draft: KeyDraft, version: int | None) -> ApiKey:
    """Another name, scopes, addresses or expiry; the secret stays."""
    key = await _active(work, key_id)
    check_version(key.version, version)
    before = picture(key)
    key.name, key.scopes = draft.name, check_scopes(work, draft.scopes)
    key.addresses = networks(draft.addresses)
    key.expires_at = check_expiry(work, draft.expires_at)
    await work.session.flush()
    _record(work, "keys.update", key, before)
    return key


async def revoke(work: Work, key_id: str) -> ApiKey:
    """The key is refused from now on; revoking it again changes nothing."""
    key = await read(work, key_id)
    if key.state == "revoked":
        return key
    before = picture(key)
    key.state, key.revoked_at = "revoked", work.now
    await work.session.flush()
    _record(work, "keys.revoke", key, before)
    return key


async def rotate(work: Work, pepper: Pepper, key_id: str, overlap: dt.timedelta) -> Issued:
    """A new secret with the same rights; the old one works until `overlap` is over."""
    old = await _active(work, key_id)
    if not dt.timedelta(0) <= overlap <= MAX_OVERLAP:
        raise invalid("overlap_seconds", f"0 to {int(MAX_OVERLAP.total_seconds())}")
    check_scopes(work, old.scopes)
    before = picture(old)
    issued = _issue(work, _secret(work, pepper, old.tenant_id), old.name)
    new = issued.key
    new.tenant_id, new.scopes = old.tenant_id, list(old.scopes)
    new.addresses, new.expires_at = list(old.addresses), old.expires_at
    ends = work.now + overlap
    old.replaced_by = new.id
    old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
    await work.session.flush()
    work.session.add(new)
    await work.session.flush()
    _record(work, "keys.rotate", old, before)
    record(work, Change("keys.create", "key", new.id, None, picture(new)), new.tenant_id)
    return issued


def check_scopes(work: Work, names: Sequence[str]) -> list[str]:
    """Known, not empty, within the maker's own rights, and none of the platform's for others."""
    try:
        asked = expand(names)
    except ValueError as error:
        raise invalid("scopes", str(error)) from None
    if not asked:
        raise invalid("scopes", "at least one scope")
    if Scope.PLATFORM in asked and work.tenant_id != PLATFORM_TENANT:
        raise ControlError(
            ProblemCode.PERMISSION_DENIED, "the scope platform is for the platform's own keys"
        )
    for scope in sorted(asked):
        work.actor.need(scope)
    return sorted(set(names))


def networks(texts: Sequence[str]) -> list[str]:
    """Addresses and ranges in one form: 10.0.0.0/8, 192.0.2.7/32, 2001:db8::/32."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            raise invalid("addresses", str(error)[:200]) from None
    return sorted(set(found))


def check_expiry(work: Work, expires_at: dt.datetime | None) -> dt.datetime | None:
    """In the future, with its zone, and within years that tables hold."""
    if expires_at is None:
        return None
    if expires_at.tzinfo is None:
        raise invalid("expires_at", "a time with its zone, like 2030-01-31T00:00:00Z")
    latest = work.now + dt.timedelta(days=366 * MAX_YEARS)
    if not work.now < expires_at < latest:
        raise invalid("expires_at", f"after now and within {MAX_YEARS} years")
    return expires_at


async def _active(work: Work, key_id: str) -> ApiKey:
    key = await read(work, key_id)
    if key.state != "active" or key.replaced_by is not None:
        raise not_active(key_id)
    return key


def _secret(work: Work, pepper: Pepper, tenant_id: str) -> Secret:
    prefix = OPERATOR_PREFIX if tenant_id == PLATFORM_TENANT else KEY_PREFIX
    return pepper.new_secret(prefix, work.random)


def _issue(work: Work, secret: Secret, name: str) -> Issued:
    key = ApiKey(
        id=new_id("key", work.random),
        tenant_id=work.tenant_id,
        name=name,
        prefix=secret.prefix,
        last4=secret.last4,
        key_hash=secret.proof,
        scopes=[],
        addresses=[],
        state="active",
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
        replaced_by=None,
        created_by=work.actor.id,
        created_at=work.now,
    )
    return Issued(key, secret)


def _record(work: Work, action: str, key: ApiKey, before: dict[str, object]) -> None:
    record(work, Change(action, "key", key.id, before, picture(key)), key.tenant_id)
