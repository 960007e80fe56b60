"""Embeddings, in the dialects that clients speak: OpenAI, infinity, Jina, vLLM; and Cohere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from fastapi import APIRouter

from .. import schemas
from ..errors import ApiError
from ..inputs import Item, bad, item, messages
from ..service import Row, Service
from .answers import cut, json, router, written


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    routed = router("embeddings")

    @routed.post("/embeddings", include_in_schema=False)  # where infinity's clients look
    @routed.post("/v1/embeddings", response_model=schemas.EmbeddingResponse)
    async def embeddings(asked: schemas.EmbeddingRequest) -> Any:
        """Embed texts, pictures, sounds, or several of them as one vector (OpenAI, infinity, Jina, vLLM)."""
        service.checked(asked.model)
        service.check_dimensions(asked.dimensions, "dimensions")
        if (asked.input is None) == (asked.messages is None):
            raise bad("give input, or messages", "input")
        items: list[Item | ApiError]
        if asked.messages is not None:
            items = list(messages(asked.messages))
        else:
            values = asked.input if isinstance(asked.input, list) else [asked.input]
            service.check_count(len(values))
            items = [_read(value, place, asked) for place, value in enumerate(values)]
        outcomes = await _outcomes(service, items)
        data, tokens = [], 0
        for place, outcome in enumerate(outcomes):
            entry: dict[str, Any] = {"object": "embedding", "index": place}
            if isinstance(outcome, ApiError):
                if asked.errors == "fail":
                    raise outcome
                data.append(entry | {"embedding": None, "error": outcome.body()["error"]})
                continue
            row_D, count = outcome
            tokens += count
            data.append(entry | {"embedding": written(cut(row_D, asked.dimensions), asked.encoding_format)})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json({"object": "list", "data": data, "model": service.tag.name, "usage": usage})

    @routed.post("/v2/embed", response_model=schemas.CohereResponse)
    async def cohere_embed(asked: schemas.CohereRequest) -> Any:
        """Embed in Cohere's dialect."""
        service.checked(asked.model)
        service.check_dimensions(asked.output_dimension, "output_dimension")
        given = [name for name in ("texts", "images", "inputs") if getattr(asked, name) is not None]
        if len(given) != 1:
            raise bad("give one of texts, images, inputs", given[0] if given else "texts")
        (name,) = given
        service.check_count(len(getattr(asked, name)))
        modality = "image" if name == "images" else "text"
        items = [item(value, f"{name}[{place}]", modality) for place, value in enumerate(getattr(asked, name))]
        rows = [cut(row_D, asked.output_dimension) for row_D in await service.vectors(items)]
        return json(
            {
                "id": str(uuid4()),
                "embeddings": {
                    kind: [_COHERE[kind](row_D) for row_D in rows] for kind in dict.fromkeys(asked.embedding_types)
                },
                "texts": asked.texts or [],
                "meta": {"api_version": {"version": "2"}},
                "response_type": "embeddings_by_type",
            }
        )

    return routed


# Bits are the signs of the numbers, eight a byte, the first the highest; "binary" bytes are shifted to be signed.
_COHERE: dict[str, Callable[[Row], Any]] = {
    "float": lambda row_D: written(row_D, "float"),
    "base64": lambda row_D: written(row_D, "base64"),
    "binary": lambda row_D: (np.packbits(row_D > 0).astype(np.int16) - 128).tolist(),
    "ubinary": lambda row_D: np.packbits(row_D > 0).tolist(),
}


def _read(value: Any, place: int, asked: schemas.EmbeddingRequest) -> Item | ApiError:
    where = f"input[{place}]"
    try:
        if type(value) is int or (isinstance(value, list) and value and all(type(one) is int for one in value)):
            raise bad(
                "token ids belong to a vocabulary that this model does not have: send text "
                "(LangChain: check_embedding_ctx_length=False)",
                where,
            )
        return item(value, where, asked.modality)
    except ApiError as error:
        if asked.errors == "fail":
            raise
        return error


async def _outcomes(service: Service, items: Sequence[Item | ApiError]) -> list[tuple[Row, int] | ApiError]:
    """Encode what could be read; the errors of the others stay in their places."""
    readable = [one for one in items if not isinstance(one, ApiError)]
    if items and not readable:
        return [one for one in items if isinstance(one, ApiError)]
    encoded = iter(await service.encode(readable))
    return [one if isinstance(one, ApiError) else next(encoded) for one in items]
