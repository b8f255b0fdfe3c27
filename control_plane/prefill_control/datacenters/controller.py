"""`/v1/datacenters`."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, post, put
from litestar.params import JSONBody, QueryParameter

from prefill_control.access.scopes import Scope
from prefill_control.datacenters import service
from prefill_control.datacenters.models import Datacenter
from prefill_control.datacenters.schemas import DatacenterChange, DatacenterInput, DatacenterView
from prefill_control.etags import etag_of, expected_version
from prefill_control.web.boundary import NEEDS
from prefill_control.web.schemas import IfMatch, Listing, PathId, ThisPage, ThisWork

InJurisdiction = Annotated[str, QueryParameter(max_length=8, description="Only in this one.")]
OPERATORS = {NEEDS: Scope.PLATFORM}


class DatacenterController(Controller):
    """The catalogue; operators change it, everybody reads it."""

    path = "/v1/datacenters"
    tags = ("datacenters",)

    @post(operation_id="createDatacenter", opt=OPERATORS)
    async def create(
        self, work: ThisWork, data: JSONBody[DatacenterInput]
    ) -> Response[DatacenterView]:
        """Add a datacenter; it is active at once."""
        return answer(await service.create(work, data.name, data.draft()), 201)

    @get(operation_id="listDatacenters", opt={NEEDS: Scope.ACCOUNT_READ})
    async def list_all(
        self, work: ThisWork, page: ThisPage, jurisdiction: InJurisdiction = ""
    ) -> Listing[DatacenterView]:
        """List datacenters."""
        found = await service.page(work, jurisdiction, page)
        views = [DatacenterView.of(row) for row in found.rows]
        return Listing(items=views, next_cursor=found.next_cursor)

    @get("/{name:str}", operation_id="readDatacenter", opt={NEEDS: Scope.ACCOUNT_READ})
    async def read(self, work: ThisWork, name: PathId) -> Response[DatacenterView]:
        """Read a datacenter."""
        return answer(await service.read(work, name))

    @put("/{name:str}", operation_id="updateDatacenter", opt=OPERATORS)
    async def update(
        self,
        work: ThisWork,
        name: PathId,
        data: JSONBody[DatacenterChange],
        if_match: IfMatch = None,
    ) -> Response[DatacenterView]:
        """Change everything but name and state."""
        return answer(await service.change(work, name, data.draft(), expected_version(if_match)))

    @post("/{name:str}/cordon", operation_id="cordonDatacenter", opt=OPERATORS, status_code=200)
    async def cordon(self, work: ThisWork, name: PathId) -> Response[DatacenterView]:
        """Take no new requests; what runs ends as it would."""
        return answer(await service.move(work, name, "cordon"))

    @post("/{name:str}/uncordon", operation_id="uncordonDatacenter", opt=OPERATORS, status_code=200)
    async def uncordon(self, work: ThisWork, name: PathId) -> Response[DatacenterView]:
        """Take new requests again."""
        return answer(await service.move(work, name, "uncordon"))

    @post("/{name:str}/drain", operation_id="drainDatacenter", opt=OPERATORS, status_code=200)
    async def drain(self, work: ThisWork, name: PathId) -> Response[DatacenterView]:
        """Take no new requests and give up caches, before maintenance."""
        return answer(await service.move(work, name, "drain"))

    @post("/{name:str}/undrain", operation_id="undrainDatacenter", opt=OPERATORS, status_code=200)
    async def undrain(self, work: ThisWork, name: PathId) -> Response[DatacenterView]:
        """Back to work after draining."""
        return answer(await service.move(work, name, "undrain"))


def answer(row: Datacenter, status: int = 200) -> Response[DatacenterView]:
    """A datacenter with its ETag."""
    headers = {"ETag": etag_of(row.version)}
    if status == 201:
        headers["Location"] = f"/v1/datacenters/{row.name}"
    return Response(DatacenterView.of(row), status_code=status, headers=headers)
