"""Search over the stores, and what can be said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from onepeace.inputs import Compose
from onepeace.reader import combined
from retrieval.asking import has_parts
from retrieval.search import Stored

from .. import schemas
from ..errors import ApiError
from ..indexes import ServedIndex
from ..inputs import ItemPart, bad, item
from ..service import Service
from .answers import json, router, told

AWAY = 0.5  # weight of what a query is to keep away from
WANTED = ("top_k", "offset", "where", "min_score", "group_by", "copies", "diversity", "rerank")


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    routed = router("search")

    @routed.post("/v1/search", response_model=schemas.SearchResponse)
    async def search(asked: schemas.SearchRequest) -> Any:
        """Find the items of a store that are nearest to a query of any modality, or a mix."""
        index = service.indexes.named(asked.index)
        query = await _query(service, index, asked)
        wanted = {name: getattr(asked, name) for name in WANTED}
        try:
            hits = await service.indexes.searching.run(index.search, query, wanted)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_search") from None
        return json({"index": index.name, "hits": [told(hit) for hit in hits]})

    @routed.get("/v1/indexes", response_model=schemas.IndexList)
    async def indexes() -> Any:
        """List the stores."""
        cards = await service.indexes.searching.run(
            lambda: [_card(service, index) for index in service.indexes.all.values()]
        )
        return {"data": cards}

    @routed.get("/v1/indexes/{name}/map", response_model=schemas.MapResponse)
    async def show_map(name: str) -> Any:
        """Return a store in two dimensions: its first two principal axes, up to 2,000 items of it."""
        index = service.indexes.named(name)
        return json({"index": name} | await service.indexes.showing.run(index.map))

    return routed


async def _query(service: Service, index: ServedIndex, asked: schemas.SearchRequest) -> Any:
    """Return what the Searcher takes: a stored item, a vector, or a mix of them. Raises ApiError."""
    if asked.query is None and asked.like is None:  # what to be away from is no query alone
        raise bad("give query, or like", "query")
    parts = [] if asked.query is None else list(item(asked.query, "query"))
    if asked.like is not None:
        parts.insert(0, ItemPart("item", asked.like, asked.like_weight, "like"))
    if asked.without is not None:
        away = item(asked.without, "without")
        total = sum(abs(part.weight) for part in away) or 1.0
        parts += [replace(part, weight=-AWAY * part.weight / total) for part in away]
    service.check_count(len(parts))
    if stored := {str(part.content): part.where or "like" for part in parts if part.kind == "item"}:
        await service.indexes.searching.run(index.check_items, stored)
    if len(parts) == 1 and parts[0].kind == "item":
        return Stored(str(parts[0].content))
    given = [(replace(part, weight=1.0),) for part in parts if part.kind != "item"]
    rows = iter(await service.vectors(given) if given else [])
    mixed: list[Any] = [Stored(str(part.content)) if part.kind == "item" else next(rows) for part in parts]
    weights = [part.weight for part in parts]
    if any(part.kind == "item" for part in parts):
        return Compose(*mixed, weights=weights)
    try:
        return combined(mixed, weights)
    except ValueError as error:
        raise bad(str(error), "query") from None


def _card(service: Service, index: ServedIndex) -> dict[str, Any]:
    catalog = index.store.catalog
    return {
        "name": index.name,
        "items": len(index.store),
        "modalities": catalog.counts(),
        "fields": list(catalog.fields()),
        "asks": service.asking.possible and has_parts(index.store.current),
    }
