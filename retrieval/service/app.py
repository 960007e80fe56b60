"""The application: its routes, its errors, and what lies around them."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from onepeace.version import __version__

from . import schemas
from .errors import ApiError
from .logs import AccessLog
from .routes import about, asking, classification, embeddings, items, page, prediction, search
from .security import HOME, ApiKeys, Authentication, BoundedBodies, SecurityHeaders, Tickets, TimeLimit
from .service import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse} for status in (400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 503)
}

logger = logging.getLogger("onepeace.serve")


def create_app(service: Service, keys: ApiKeys | None = None) -> Any:
    """Return the ASGI application."""
    config = service.config
    app = FastAPI(
        title="onepeace",
        version=__version__,
        description="Images, text and audio in one embedding space: embed, search, classify, predict.",
        lifespan=service.lifespan,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    bodies = BoundedBodies(
        TimeLimit(app, config.request_seconds),
        max_bytes=config.body_bytes,
        seconds=config.body_seconds,
        at_once=config.requests_at_once,
    )
    # The keys are checked around all of this; here they are told to clients that are made from the interface.
    told = [Security(HTTPBearer(auto_error=False))] if keys else []
    tickets = Tickets()
    for kind in (embeddings, classification, prediction, search, asking):
        app.include_router(kind.routes(service), dependencies=told)
    app.include_router(items.routes(service, tickets), dependencies=told)
    app.include_router(about.routes(service, lambda: bodies.running))
    app.include_router(page.routes())

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misshapen(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(ApiError(400, "the body is no valid JSON", code="invalid_json").body(), 400)
        where = ".".join(str(part) for part in first["loc"][1:])  # the first says whether of the body, or the path
        said = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        told = ApiError(422, f"{where}: {said}" if where else said, param=where or None)
        return JSONResponse(told.body(), told.status)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(ApiError(500, "something went wrong here; the log says what").body(), 500)

    guarded = Authentication(bodies, keys or ApiKeys(), config.host in HOME, tickets)
    return AccessLog(SecurityHeaders(guarded), service.metrics)
