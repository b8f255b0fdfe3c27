"""OpenAPI links: which answer names the object that another operation takes."""

from __future__ import annotations

import re
from typing import Any

Document = dict[str, Any]
# Path parameter -> who makes such an object, with which status, and where its id is.
PRODUCERS = {
    "tenant_id": ("createTenant", "201", "$response.body#/id"),
    "member_id": ("createMember", "201", "$response.body#/id"),
    "key_id": ("createKey", "201", "$response.body#/key/id"),
    "subject": ("createKey", "201", "$response.body#/key/id"),
    "grant_id": ("createModelGrant", "201", "$response.body#/id"),
}
NAMED = {
    "/v1/datacenters/": ("createDatacenter", "201", "$response.body#/name"),
    "/v1/models/": ("createModel", "201", "$response.body#/name"),
}
ETAG = "$response.header.ETag"
_PARAMETER = re.compile(r"\{(\w+)\}")


def add_links(document: Document) -> None:
    """From every producer to every operation that takes what it makes."""
    by_name = {
        operation["operationId"]: operation
        for item in document["paths"].values()
        for operation in item.values()
    }
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            for parameter in _PARAMETER.findall(path):
                found = _producer(path, parameter)
                if found is None:  # requests are made by gateways, not over this API
                    continue
                maker, status, where = found
                links = by_name[maker]["responses"][status].setdefault("links", {})
                links[operation["operationId"]] = _link(operation, verb, parameter, where)


def _producer(path: str, parameter: str) -> tuple[str, str, str] | None:
    for start, maker in NAMED.items():
        if parameter == "name" and path.startswith(start):
            return maker
    return PRODUCERS.get(parameter)


def _link(operation: Document, verb: str, parameter: str, where: str) -> Document:
    parameters = {f"path.{parameter}": where}
    if verb in ("put", "patch"):
        parameters["header.If-Match"] = ETAG
    return {"operationId": operation["operationId"], "parameters": parameters}
