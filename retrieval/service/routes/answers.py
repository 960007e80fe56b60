"""How requests are read and answers written, quicker than the framework does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from retrieval.parts import place_of
from retrieval.search import SearchHit

from ..inputs import bad

Row = npt.NDArray[np.float32]


class JsonRequest(Request):
    """Reads JSON by orjson: quicker, and neither depth nor numbers upset it."""

    async def json(self) -> Any:
        """Return the body."""
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route whose requests are `JsonRequest`s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def router(tag: str) -> APIRouter:
    """Return a router for routes of one kind."""
    return APIRouter(route_class=JsonRoute, tags=[tag])


def json(content: Any) -> Response:
    """Return JSON by orjson, which writes arrays as they are."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def cut(row_D: Row, dimensions: int | None) -> Row:
    """Return the first numbers of a vector, at length one."""
    if dimensions is None:
        return row_D
    short = row_D[:dimensions]
    norm = np.linalg.norm(short)
    if not norm > 0:
        raise bad("so few dimensions have no direction left", "dimensions")
    out: Row = short / norm
    return out


def written(row_D: Row, encoding: str) -> Any:
    """Return a vector as JSON takes it: numbers, or the base64 of little-endian float32."""
    return base64.b64encode(row_D.astype("<f4").tobytes()).decode() if encoding == "base64" else row_D


def told(hit: SearchHit) -> dict[str, Any]:
    """Return a hit as JSON takes it."""
    item = hit.item
    return {
        "rank": hit.rank,
        "score": hit.score,
        "id": item.id,
        "modality": item.modality,
        "uri": item.uri,
        "metadata": item.metadata,
        "place": None if (place := place_of(item)) is None else str(place),
    }
