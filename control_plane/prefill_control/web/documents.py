"""What the framework cannot know of the API: strict bodies, problems, headers, who may call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin

from prefill_control.errors import PROBLEMS, ProblemCode
from prefill_control.web.boundary import NEEDS, PUBLIC
from prefill_control.web.examples import example_of
from prefill_control.web.links import add_links
from prefill_control.web.problems import MEDIA_TYPE, ProblemDocument

Document = dict[str, Any]
REFERENCE = "#/components/schemas/{name}"
IF_MATCH = r'^("[0-9]{1,18}"|[*])$'
CHANGES = ("put", "patch", "post")
TENANT_HEADER = ("Prefill-Tenant", "Operators: act in this tenant alone.", "^ten_[0-9a-z_]{1,60}$")
KEY_HEADER = ("Idempotency-Key", "The same key and body get the first answer.", "^[!-~]{1,128}$")


class CompleteJson(JsonRenderPlugin):
    """Serves the completed document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Completed once, then kept on the application."""
        return super().render(request, document_of(request.app))


def document_of(app: Litestar) -> Document:
    """The whole OpenAPI 3.1 document of an application."""
    known = app.state.get("document")
    if known is None:
        known = app.state["document"] = _complete(app)
    return dict(known)


def operations(app: Litestar) -> Iterator[HTTPRouteHandler]:
    """Every handler that the document tells of."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", []):
            if isinstance(handler, HTTPRouteHandler) and handler.opt.get(NEEDS):
                yield handler


def _complete(app: Litestar) -> Document:
    document = deepcopy(app.openapi_schema.to_schema())
    handlers = {str(handler.operation_id): handler for handler in operations(app)}
    bodies = [h.parsed_data_field.annotation for h in handlers.values() if h.parsed_data_field]
    _, strict = msgspec.json.schema_components([*bodies, ProblemDocument], ref_template=REFERENCE)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(strict)
    for item in document["paths"].values():
        for verb, operation in item.items():
            handler = handlers[operation["operationId"]]
            _complete_operation(operation, verb, str(handler.opt[NEEDS]))
            if handler.parsed_data_field is not None:
                _add_example(operation, schemas)
    add_links(document)
    return document


def _complete_operation(operation: Document, verb: str, needs: str) -> None:
    responses = operation.setdefault("responses", {})
    responses.pop("400", None)
    for status in _statuses(verb, needs):
        responses.setdefault(str(status), _refusal(status))
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "If-Match":
            parameter["schema"] = {"type": "string", "pattern": IF_MATCH}
    headers = [] if needs == PUBLIC else [_header(*TENANT_HEADER)]
    if verb == "post" and needs != PUBLIC:
        headers.append(_header(*KEY_HEADER))
    operation["parameters"] = [*operation.get("parameters", []), *headers]
    if needs != PUBLIC:
        told = operation.get("description", "")
        operation["description"] = f"{told} Needs the scope `{needs}`.".strip()


def _add_example(operation: Document, schemas: Mapping[str, Document]) -> None:
    media = operation["requestBody"]["content"]["application/json"]
    media["example"] = example_of(media["schema"], schemas)


def _statuses(verb: str, needs: str) -> list[int]:
    found = [400, 401, 403, 404, 422, 429, 500, 503]
    if verb in CHANGES:
        found += [409, 413, 415]
    if verb in ("put", "patch"):
        found += [412, 428]
    if verb == "delete":
        found += [409, 412]
    return found if needs != PUBLIC else [s for s in found if s != 412]


def _refusal(status: int) -> Document:
    codes = [code for code in ProblemCode if PROBLEMS[code].http_status == status]
    schema = {"$ref": REFERENCE.format(name=ProblemDocument.__name__)}
    content = {"schema": schema, "examples": {code.value: _example(code) for code in codes}}
    words = " or ".join(PROBLEMS[code].title.lower() for code in codes)
    return {"description": words, "content": {MEDIA_TYPE: content}}


def _example(code: ProblemCode) -> Document:
    entry = PROBLEMS[code]
    told = ProblemDocument(
        type=f"/problems/{code.value.lower().replace('_', '-')}",
        title=entry.title,
        status=entry.http_status,
        code=code.value,
        detail=entry.title.lower(),
        remedy=entry.remedy,
        request_id="req_" + "0" * 26,
    )
    return {"value": msgspec.to_builtins(told)}


def _header(name: str, words: str, pattern: str) -> Document:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}
