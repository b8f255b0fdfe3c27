"""`/v1/keys`, and `/v1/key-checks` for who asks what a key comes to."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from litestar import Controller, Response, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.access.secrets import Pepper
from prefill_control.etags import etag_of, expected_version
from prefill_control.keys import service
from prefill_control.keys.models import ApiKey
from prefill_control.keys.schemas import (
    IssuedKeyView,
    KeyCheckInput,
    KeyCheckView,
    KeyInput,
    KeyView,
    Rotation,
)
from prefill_control.keys.status import KeyStatus
from prefill_control.web.boundary import NEEDS, Parts
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork

StateFilter = Annotated[
    Literal["active", "revoked"] | None, QueryParameter(name="state", description="Only these.")
]
ThisPepper = NamedDependency[Pepper]


class KeyController(Controller):
    """API keys of the caller's account."""

    path = "/v1/keys"
    tags = ("keys",)

    @post(operation_id="createKey", opt={NEEDS: Scope.MANAGE_KEYS})
    async def create(
        self, work: ThisWork, pepper: ThisPepper, data: JSONBody[KeyInput]
    ) -> Response[IssuedKeyView]:
        """Create a key. The answer alone holds its secret."""
        return issued_answer(await service.create(work, pepper, data.draft()))

    @get(operation_id="listKeys", opt={NEEDS: Scope.ACCOUNT_READ})
    async def list_all(
        self, work: ThisWork, page: ThisPage, in_state: StateFilter = None
    ) -> Listing[KeyView]:
        """List keys, newest first."""
        found = await service.page(work, in_state or "", page)
        views = [KeyView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{key_id:str}", operation_id="readKey", opt={NEEDS: Scope.ACCOUNT_READ})
    async def read(self, work: ThisWork, key_id: PathId) -> Response[KeyView]:
        """Read a key."""
        return answer(await service.read(work, key_id))

    @put("/{key_id:str}", operation_id="updateKey", opt={NEEDS: Scope.MANAGE_KEYS})
    async def update(
        self, work: ThisWork, key_id: PathId, data: JSONBody[KeyInput], if_match: IfMatch = None
    ) -> Response[KeyView]:
        """Change name, scopes, addresses and expiry; the secret stays."""
        version = expected_version(if_match)
        return answer(await service.change(work, key_id, data.draft(), version))

    @post(
        "/{key_id:str}/rotate",
        operation_id="rotateKey",
        opt={NEEDS: Scope.MANAGE_KEYS},
    )
    async def rotate(
        self, work: ThisWork, pepper: ThisPepper, key_id: PathId, data: JSONBody[Rotation]
    ) -> Response[IssuedKeyView]:
        """Issue a successor with the same rights; the old secret works during the overlap."""
        overlap = dt.timedelta(seconds=data.overlap_seconds)
        return issued_answer(await service.rotate(work, pepper, key_id, overlap))

    @post(
        "/{key_id:str}/revoke",
        operation_id="revokeKey",
        opt={NEEDS: Scope.MANAGE_KEYS},
        status_code=200,
    )
    async def revoke(self, work: ThisWork, key_id: PathId) -> Response[KeyView]:
        """Revoke for good; within five seconds no gateway takes the key."""
        return answer(await service.revoke(work, key_id))


class KeyCheckController(Controller):
    """What a shown secret comes to."""

    path = "/v1/key-checks"
    tags = ("keys",)

    @post(operation_id="checkKey", opt={NEEDS: Scope.MANAGE_KEYS}, status_code=200)
    async def check(
        self, work: ThisWork, parts: NamedDependency[Parts], data: JSONBody[KeyCheckInput]
    ) -> KeyCheckView:
        """Check a secret. Another account's key looks exactly like one that does not exist."""
        status, found = await parts.authenticator.check(data.secret, work.now, data.address)
        own = found is not None and (
            work.actor.is_operator or found.actor.tenant_id == work.tenant_id
        )
        if found is None or not own or found.actor.kind != "key":
            return KeyCheckView(status=KeyStatus.NOT_FOUND, key_id="", tenant_id="", scopes=[])
        return KeyCheckView(
            status=status,
            key_id=found.actor.id,
            tenant_id=found.actor.tenant_id,
            scopes=sorted(found.actor.scopes),
        )


def answer(key: ApiKey) -> Response[KeyView]:
    """A key with its ETag."""
    return Response(KeyView.of(key), headers={"ETag": etag_of(key.version)})


def issued_answer(issued: service.Issued) -> Response[IssuedKeyView]:
    """A fresh key with its secret, its ETag and its place."""
    headers = {"ETag": etag_of(issued.key.version), "Location": f"/v1/keys/{issued.key.id}"}
    return Response(IssuedKeyView.of(issued), status_code=201, headers=headers)
