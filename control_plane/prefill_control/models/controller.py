"""`/v1/models` and `/v1/model-grants`."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Controller, Response, delete, get, post, put
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.etags import etag_of, expected_version
from prefill_control.models import repository, service
from prefill_control.models.models import Model
from prefill_control.models.schemas import (
    GrantInput,
    GrantView,
    ModelChange,
    ModelInput,
    ModelView,
)
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork

READ, OPERATORS = {NEEDS: Scope.ACCOUNT_READ}, {NEEDS: Scope.PLATFORM}
StateFilter = Annotated[
    Literal["active", "retired"] | None, QueryParameter(name="state", description="Only these.")
]


class ModelController(Controller):
    """The catalogue; operators change it, tenants see what they may use."""

    path = "/v1/models"
    tags = ("models",)

    @post(operation_id="createModel", opt=OPERATORS)
    async def create(self, work: ThisWork, data: JSONBody[ModelInput]) -> Response[ModelView]:
        """Add a model."""
        return answer(await service.create(work, data.name, data.draft()), 201)

    @get(operation_id="listModels", opt=READ)
    async def list_all(
        self, work: ThisWork, page: ThisPage, in_state: StateFilter = None
    ) -> Listing[ModelView]:
        """List models that the caller may use."""
        found = await service.page(work, in_state or "", page)
        views = [ModelView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{name:str}", operation_id="readModel", opt=READ)
    async def read(self, work: ThisWork, name: PathId) -> Response[ModelView]:
        """Read a model."""
        return answer(await service.read(work, name))

    @put("/{name:str}", operation_id="updateModel", opt=OPERATORS)
    async def update(
        self, work: ThisWork, name: PathId, data: JSONBody[ModelChange], if_match: IfMatch = None
    ) -> Response[ModelView]:
        """Change everything but name and state."""
        return answer(await service.change(work, name, data.draft(), expected_version(if_match)))

    @post("/{name:str}/retire", operation_id="retireModel", opt=OPERATORS, status_code=200)
    async def retire(self, work: ThisWork, name: PathId) -> Response[ModelView]:
        """Serve it no more."""
        return answer(await service.set_state(work, name, "retired"))

    @post("/{name:str}/restore", operation_id="restoreModel", opt=OPERATORS, status_code=200)
    async def restore(self, work: ThisWork, name: PathId) -> Response[ModelView]:
        """Serve it again."""
        return answer(await service.set_state(work, name, "active"))


class GrantController(Controller):
    """Who may use restricted models."""

    path = "/v1/model-grants"
    tags = ("models",)

    @post(operation_id="createModelGrant", opt=OPERATORS)
    async def create(self, work: ThisWork, data: JSONBody[GrantInput]) -> GrantView:
        """Put the tenant that Prefill-Tenant names on a model's allow-list."""
        return GrantView.of(await service.grant(work, data.model))

    @get(operation_id="listModelGrants", opt=READ)
    async def list_all(self, work: ThisWork, page: ThisPage) -> Listing[GrantView]:
        """List grants."""
        found = await repository.grants(work.session, page)
        views = [GrantView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @delete("/{grant_id:str}", operation_id="deleteModelGrant", opt=OPERATORS)
    async def remove(self, work: ThisWork, grant_id: PathId) -> None:
        """Take a tenant off the allow-list."""
        await service.withdraw(work, grant_id)


def answer(model: Model, status: int = 200) -> Response[ModelView]:
    """A model with its ETag."""
    headers = {"ETag": etag_of(model.version)}
    if status == 201:
        headers["Location"] = f"/v1/models/{model.name}"
    return Response(ModelView.of(model), status_code=status, headers=headers)
