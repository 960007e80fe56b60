"""Asking sequences: a store's files, or an album that comes with the request."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
from fastapi import APIRouter

from onepeace.sequences import count_of
from retrieval.asking import has_parts

from .. import schemas
from ..errors import ApiError
from ..inputs import bad, item, words
from ..service import Service
from .answers import json, router, told


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    routed = router("search")

    @routed.post("/v1/ask", response_model=schemas.AskResponse)
    async def ask(asked: schemas.AskRequest) -> Any:
        """Ask the videos, documents and cut sounds of a store: of each that fits, the part that is meant."""
        service.asking.check()
        index = service.indexes.named(asked.index)
        question = words(asked.text, "text")
        if not await service.indexes.searching.run(has_parts, index.store.current):
            why = f"index {index.name!r} holds no videos, documents or cut sounds to ask"
            raise ApiError(400, why, param="index", code="invalid_search")
        [text_D] = await service.vectors([(question,)])
        try:
            hits = await service.asking.files(index, asked.text, text_D, asked.top_k, asked.where, uuid4())
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_search") from None
        rows = [told(hit) | {"probability": hit.probability} for hit in hits]
        return json({"index": index.name, "hits": rows})

    @routed.post("/v1/ask/album", response_model=schemas.AlbumResponse)
    async def ask_album(asked: schemas.AlbumRequest) -> Any:
        """Ask an album that comes with the request: which of its items is meant, and how well all of it fits."""
        service.asking.check()
        service.checked(asked.model)
        question = words(asked.text, "text")
        values = asked.input if isinstance(asked.input, list) else [asked.input]
        if not values:
            raise bad("input is empty", "input")
        service.check_count(len(values) + 1)
        items = [item(value, f"input[{place}]", asked.modality) for place, value in enumerate(values)]
        rows = await service.vectors([*items, (question,)])  # the question's own tells whether it can be read
        reading = await service.asking.album(asked.text, np.stack(rows[:-1]), uuid4())
        likely = reading.weights if reading.counted is None else reading.counted
        told = [{"item": int(at) + 1, "probability": float(likely[at])} for at in likely.argsort()[::-1][: asked.top]]
        count = None if reading.counted is None else count_of(reading.counted)
        whole = {"match": reading.match, "absent": reading.absent, "count": count}
        return json({"model": service.tag.name, **whole, "items": told})

    return routed
