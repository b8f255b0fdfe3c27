"""What anybody may fetch: the way in, health, metrics, and what documents the API."""

from __future__ import annotations

from html import escape

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.enums import OpenAPIMediaType
from litestar.response import Redirect

from prefill_control.web.boundary import Parts
from prefill_control.web.documents import Document, document_of

Any_ = Request[object, object, State]
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc} code{background:#f3f3f3;padding:0 .25em}
.op{margin:1rem 0}.verb{display:inline-block;min-width:4.5rem;font-weight:600}
small{color:#555}
"""


class Health(msgspec.Struct, frozen=True):
    """What a probe reads."""

    status: str


class Index(msgspec.Struct, frozen=True):
    """Where everything is, for a program that knows the host alone."""

    title: str
    version: str
    docs: str = "/docs"
    openapi: str = "/openapi.json"
    live: str = "/health/live"
    ready: str = "/health/ready"
    metrics: str = "/metrics"


@get("/", include_in_schema=False)
async def index(request: Any_) -> Response[Index] | Redirect:
    """A browser is led to the page, a program gets the links."""
    if MediaType.HTML in request.headers.get("accept", ""):
        return Redirect("/docs")
    info = document_of(request.app)["info"]
    return Response(Index(info["title"], info["version"]))


@get("/openapi.json", include_in_schema=False, media_type=OpenAPIMediaType.OPENAPI_JSON)
async def openapi_document(request: Any_) -> Document:
    """The document, where tools look for it first."""
    return document_of(request.app)


@get("/health/live", include_in_schema=False)
async def live() -> Health:
    """The process answers."""
    return Health("ok")


@get("/health/ready", include_in_schema=False)
async def ready(request: Any_) -> Health:
    """The database answers, too; 503 otherwise."""
    await parts_of(request).database.ping()
    return Health("ok")


@get("/metrics", include_in_schema=False, media_type="text/plain; version=0.0.4")
async def metrics_text(request: Any_) -> bytes:
    """Prometheus' text form."""
    return parts_of(request).metrics.text()


@get("/docs", include_in_schema=False, media_type=MediaType.HTML)
async def docs_page(request: Any_) -> Response[str]:
    """Every operation, made of the OpenAPI document; no script, nothing from elsewhere."""
    document = document_of(request.app)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(render(document), headers={"Content-Security-Policy": policy})


def parts_of(request: Any_) -> Parts:
    """The application's parts."""
    parts = request.app.state.parts
    if not isinstance(parts, Parts):
        raise TypeError("the application was built without parts")
    return parts


def render(document: Document) -> str:
    """HTML of an OpenAPI document."""
    operations: dict[str, list[str]] = {}
    for path, item in sorted(document["paths"].items()):
        for verb, operation in item.items():
            tag = (operation.get("tags") or ["other"])[0]
            operations.setdefault(tag, []).append(_operation(path, verb, operation))
    sections = "".join(
        f"<h2>{escape(tag)}</h2>{''.join(rows)}" for tag, rows in sorted(operations.items())
    )
    title = escape(document["info"]["title"])
    link = '<a href="/openapi.json">OpenAPI 3.1 document</a>'
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title} API</h1><p>{link}</p>{sections}</html>"
    )


def _operation(path: str, verb: str, operation: Document) -> str:
    name = escape(str(operation.get("operationId", "")))
    words = escape(str(operation.get("description", "")))
    return (
        f'<div class=op id="{name}"><span class=verb>{verb.upper()}</span>'
        f"<code>{escape(path)}</code><br>{words} <small>{name}</small></div>"
    )
