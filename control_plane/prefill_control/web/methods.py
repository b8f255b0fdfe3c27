"""Which methods a path takes: the framework tells one handler's, a path may have several."""

from __future__ import annotations

import re

from litestar import Litestar
from litestar.types import Message, Scope


def allowed_methods(app: Litestar, path: str) -> list[str]:
    """Every method that some handler of this path takes."""
    plain = path.rstrip("/") or "/"
    found: set[str] = set()
    for route in app.routes:
        pattern = re.sub(r"\\\{[^/]+\\\}", "[^/]+", re.escape(route.path_format))
        if re.fullmatch(pattern, plain):
            found |= set(getattr(route, "methods", ()))
    return sorted(found)


async def tell_methods(message: Message, scope: Scope) -> None:
    """A `before_send` hook: the answer to OPTIONS names all of them."""
    if message["type"] == "http.response.start" and scope.get("method") == "OPTIONS":
        kept = [(name, value) for name, value in message["headers"] if name.lower() != b"allow"]
        methods = ", ".join(allowed_methods(scope["litestar_app"], scope["path"]))
        message["headers"] = [*kept, (b"allow", methods.encode())]
