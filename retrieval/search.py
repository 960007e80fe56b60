"""Searching a store with a query of any modality, or a mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .catalog import Item
from .filters import Where
from .manifest import ModelTag, NamedModel
from .store import Store
from .vectors import unit_rows


class QueryModel(NamedModel, Protocol):
    """What searching needs of a model; `onepeace.Embedder` has it."""

    def encode(self, inputs: Any) -> npt.NDArray[np.float32]:
        """Turn a list of N inputs into unit rows (N, D)."""


@dataclass(frozen=True)
class SearchHit:
    """An item that was found."""

    item: Item
    score: float  # cosine similarity, -1 to 1
    rank: int  # from 1


class Searcher:
    """Finds the items of a store that are nearest to a query.

    A query is whatever the model's `encode` takes (for onepeace: a str, which is always text, `Image`, `Audio`, or a
    `Compose` of them), or a ready vector of shape (D,). Without a model only ready vectors can be searched with.
    """

    def __init__(self, store: Store, model: QueryModel | None = None) -> None:
        """Raises StoreError when the store was built with another model."""
        if model is not None:
            store.require_model(ModelTag.of(model))
        self.store = store
        self.model = model

    def search(self, query: Any, top_k: int = 10, where: Where | None = None) -> list[SearchHit]:
        """Return the `top_k` nearest items, nearest first; fewer when there are fewer.

        `where` keeps only items with these values: "modality=image and label=dog", or a mapping. Raises ValueError
        for a query that cannot be encoded and for an unknown field.
        """
        return self.search_many([query], top_k, where)[0]

    def search_like(self, id: str, top_k: int = 10, where: Where | None = None) -> list[SearchHit]:  # noqa: A002
        """Return the `top_k` items nearest to one in the store, without that one. Needs no model."""
        hits = self.search(self.store.vectors([id])[0], top_k + 1, where)
        others = [hit for hit in hits if hit.item.id != id][:top_k]
        return [replace(hit, rank=rank) for rank, hit in enumerate(others, start=1)]

    def search_many(
        self, queries: Sequence[Any] | npt.NDArray[np.float32], top_k: int = 10, where: Where | None = None
    ) -> list[list[SearchHit]]:
        """Search with several queries at once, encoded and compared together; the hits of each, in their order."""
        if isinstance(queries, str) or (isinstance(queries, np.ndarray) and queries.ndim != 2):
            raise ValueError("search_many takes a list of queries or vectors of shape (Q, D); `search` takes one query")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        current = self.store.current
        within = None if where is None else current.catalog.select(where)
        scores, rows = current.index.search(self._encoded(queries), top_k, within)
        items = dict(zip(np.unique(rows).tolist(), current.catalog.at(np.unique(rows)), strict=True))
        return [
            [SearchHit(items[row], score, rank) for rank, (row, score) in enumerate(found, start=1)]
            for found in (zip(*both, strict=True) for both in zip(rows.tolist(), scores.tolist(), strict=True))
        ]

    def _encoded(self, queries: Sequence[Any] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        dimension = self.store.model.dimension
        encoded = np.empty((len(queries), dimension), dtype=np.float32)
        to_encode = []
        for place, query in enumerate(queries):
            if isinstance(query, np.ndarray):
                encoded[place] = unit_rows(query, dimension)[0]
            else:
                to_encode.append(place)
        if to_encode:
            if self.model is None:
                raise ValueError("this Searcher has no model, so queries must be vectors: give Searcher(store, model)")
            encoded[to_encode] = unit_rows(self.model.encode([queries[place] for place in to_encode]), dimension)
        return encoded
