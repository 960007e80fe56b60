"""The page to search with, and the one that shows the interface; all they need lies in packages."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from ..errors import ApiError

PAGE = files("retrieval.service") / "page"
SWAGGER = files("fastapi_swagger") / "resources"
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def routes() -> APIRouter:
    """Return the routes."""
    routed = APIRouter(include_in_schema=False)

    @routed.get("/docs")
    async def docs(request: Request) -> Response:
        return await page(request, "docs.html")

    @routed.get("/")
    @routed.get("/assets/{name}")
    async def page(request: Request, name: str = "index.html") -> Response:
        path = (SWAGGER if name.startswith("swagger-ui") else PAGE) / name
        kind = TYPES.get(name.rpartition(".")[2])
        if kind is None or "/" in name or len(name) > 64 or not path.is_file():
            raise ApiError(404, "there is no such page")
        content = path.read_bytes()
        tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
        headers = {"Cache-Control": "no-cache", "ETag": tag}  # asked each time, sent when it is another
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return routed
