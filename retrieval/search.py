"""Searching a store with a query of any modality, or a mix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .asking import asked
from .catalog import Item
from .filters import COLUMNS, Where
from .hits import Hits
from .manifest import ModelTag, NamedModel
from .precision import Rows
from .rerank import CANDIDATES, bank_scores
from .vectors import unit_rows

POOL = 5  # candidates a hit on a page, that groups are formed of, and diverse hits chosen from
LONGEST_LOOK = 10_000  # candidates; groups beyond them are not looked for

Keys = npt.NDArray[Any]  # what stands for items in a store: row numbers in a local one


class QueryModel(NamedModel, Protocol):
    """What searching needs of a model; `onepeace.Embedder` has it.

    >>> model.encode(["a dog barking", "rain"]).shape
    (2, 512)
    """

    def encode(self, inputs: Any) -> npt.NDArray[np.float32]:
        """Turn a list of N inputs into unit rows (N, D)."""


class Searchable(Protocol):
    """What searching needs of the items of a store. Q: queries, K: hits, N: items, D: width of a vector."""

    def select(self, where: Where) -> Any:
        """Return what passes a filter, as `search` takes it. Raises ValueError naming an unknown field."""

    def search(self, queries_QD: Rows, k: int, within: Any | None = None) -> tuple[Iterable[Rows], Iterable[Keys]]:
        """Return the scores (K,) and keys (K,) of each unit query's k nearest, best first; fewer if there are fewer."""

    def fields(self) -> list[str]:
        """Return every field that a filter may name."""

    def items(self, keys: Keys, /) -> list[Item]:
        """Return the items of keys that `search` gave."""

    def vectors_at(self, keys: Keys, /) -> Rows:
        """Return the unit vectors (N, D) of keys that `search` gave."""

    def vectors_of(self, ids: Sequence[str]) -> Rows:
        """Return the unit vectors (N, D) of these items. Raises CatalogError naming ids that are not here."""


class SearchableStore(Protocol):
    """What a `Searcher` searches: `Store`, and `MilvusStore`."""

    @property
    def model(self) -> ModelTag:
        """The model that made the vectors."""

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError for any other."""

    @property
    def current(self) -> Searchable:
        """The items as they are now."""


@dataclass(frozen=True)
class Stored:
    """An item of the store as a query, or as a part of a mix: `Compose(Stored("photos/dog.jpg"), "in the snow")`.

    >>> onepeace.Compose(Stored("photos/dog.jpg"), "in the snow", weights=[1.0, 0.5])
    Compose(1 * Stored(id='photos/dog.jpg'), 0.5 * 'in the snow')
    """

    id: str


@dataclass(frozen=True)
class SearchHit:
    """An item that was found.

    >>> report = build_store(["dog.jpg", "dog.flac", "rain.ogg"], "my-store", model)
    >>> with Store.open("my-store") as store:
    ...     [hit] = Searcher(store, model).search("heavy rain", top_k=1, where="modality=audio")
    >>> hit.item.id, hit.rank, 0 < hit.score < 1
    ('rain.ogg', 1, True)
    """

    item: Item
    score: float  # cosine similarity, -1 to 1
    rank: int  # from 1


@dataclass(frozen=True)
class AskedHit(SearchHit):
    """The part of a file that answers a question; `score` is how well its file fits, beside other files.

    >>> hit = AskedHit(Item("slides.tiff#page=2", "image", "slides.tiff"), score=5.4, rank=1, probability=0.92)
    >>> hit.item.id, hit.probability
    ('slides.tiff#page=2', 0.92)
    """

    probability: float  # that this part of its file is meant


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which hits, and how many."""

    top_k: int = 10
    offset: int = 0  # hits to skip, for the next page
    where: Where | None = None
    min_score: float | None = None  # leave out what is less similar
    group_by: str | None = None  # keep the best of the hits with one value of a field, among the 10,000 nearest
    copies: bool = True  # False: of items with the same bytes, or the same words, the first alone
    diversity: float = 0.0  # 0: the nearest; towards 1: of the 5 top_k nearest, first those that differ
    rerank: bool = False  # order the 100 nearest by the model's bank of texts; scores stay cosines

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.offset < 0:
            raise ValueError(f"offset must not be negative, got {self.offset}")
        if not 0.0 <= self.diversity < 1.0:
            raise ValueError(f"diversity must be from 0 to below 1, got {self.diversity}")
        if self.rerank and self.diversity:
            raise ValueError("diversity and rerank both order the nearest: give one of them")


class Searcher:
    """Finds the items of a store that are nearest to a query.

    A query is whatever the model's `encode` takes (for onepeace: a str, which is always text, `Image`, `Audio`, or a
    `Compose` of them), a ready vector of shape (D,), `Stored`, or a `Compose` with `Stored` among its parts; parts with
    negative weights push away. Without a model only vectors and stored items can be searched with.

    >>> report = build_store(["dog.jpg", "dog.flac", "rain.ogg"], "my-store", model)
    >>> store = Store.open("my-store")
    >>> searcher = Searcher(store, model)
    >>> [hit.item.id for hit in searcher.search(onepeace.Image("dog.jpg"), top_k=2)]  # its own picture, then its bark
    ['dog.jpg', 'dog.flac']
    >>> [hit.item.id for hit in searcher.search("a barking dog", top_k=2, rerank=True)]
    ['dog.flac', 'dog.jpg']
    >>> [hit.item.id for hit in searcher.search_like("dog.jpg", where="modality=audio")]  # needs no model
    ['dog.flac', 'rain.ogg']
    >>> [[hit.item.id for hit in hits] for hits in searcher.search_many(["a dog barking", "rain"], 1, "modality=audio")]
    [['dog.flac'], ['rain.ogg']]
    >>> store.close()
    """

    def __init__(self, store: SearchableStore, model: QueryModel | None = None, bank: Rows | None = None) -> None:
        """Open a store to searching; `bank` (B, d) is the model's query bank, where the model itself is not here.

        Raises StoreError when the store was built with another model, ValueError for a bank without vectors.
        """
        if model is not None:
            store.require_model(ModelTag.of(model))
        self.store = store
        self.model = model
        if bank is not None and not len(bank):
            raise ValueError("a query bank holds at least one vector, got none")
        self._bank = None if bank is None else unit_rows(bank, np.shape(bank)[-1])

    def search(self, query: Any, top_k: int = 10, where: Where | None = None, **wanted: Any) -> Hits:
        """Return the `top_k` nearest items, nearest first; fewer when there are fewer. A notebook shows them as a grid.

        `where` keeps only items that pass it: "modality=image and year>=2020" (`retrieval.filters`), or a mapping of
        fields to values. Further keywords are those of `Wanted`. Raises ValueError for a query that cannot be encoded,
        for an unknown field, and for `rerank` without a query bank or with a damaged one.
        """
        return self.search_many([query], top_k, where, **wanted)[0]

    def search_like(self, id: str, top_k: int = 10, where: Where | None = None, **wanted: Any) -> Hits:  # noqa: A002
        """Return the `top_k` items nearest to one in the store, without that one. Needs no model."""
        return self._search([Stored(id)], Wanted(top_k=top_k, where=where, **wanted), without=id)[0]

    def ask(self, text: str, top_k: int = 10, where: Where | None = None) -> Hits:
        """Ask the videos, documents and long sounds of the store: of each that fits a part, the best file first.

        A text names a part by what is in it, by its number or by its neighbour. The model's sequence tower reads the 20
        files whose parts are nearest to it. Hits are `AskedHit`s. Raises ValueError without a model, and for an unknown
        field.

        >>> from PIL import Image
        >>> page = Image.open("dog.jpg").convert("RGB")
        >>> page.save("slides.tiff", save_all=True, append_images=[page.rotate(180)])
        >>> report = build_store(["slides.tiff"], "my-store", model)
        >>> with Store.open("my-store") as store:
        ...     [hit] = Searcher(store, model).ask("what is on page 2?")
        >>> hit.item.id
        'slides.tiff#page=2'
        """
        return asked(self, text, top_k, where)

    def search_many(
        self,
        queries: Sequence[Any] | npt.NDArray[np.float32],
        top_k: int = 10,
        where: Where | None = None,
        **wanted: Any,
    ) -> list[Hits]:
        """Search with several queries at once, encoded together; the hits of each, in their order."""
        if isinstance(queries, str) or (isinstance(queries, np.ndarray) and queries.ndim != 2):
            raise ValueError("search_many takes a list of queries or vectors of shape (Q, D); `search` takes one query")
        return self._search(queries, Wanted(top_k=top_k, where=where, **wanted))

    def _search(
        self, queries: Sequence[Any] | npt.NDArray[np.float32], asked: Wanted, without: str | None = None
    ) -> list[Hits]:
        """Search; `without` is the id of an item that is no hit."""
        current = self.store.current
        if asked.group_by is not None and asked.group_by not in (known := current.fields()):
            raise ValueError(f"group_by: unknown field {asked.group_by!r}; the fields here are {', '.join(known)}")
        within = None if asked.where is None else current.select(asked.where)
        bank_Bd = self._query_bank() if asked.rerank else None
        encoded_QD = self._encoded(queries, current)
        files = [] if asked.copies else [_files_of(query) for query in queries]
        plain = asked.copies and not asked.diversity and not asked.rerank
        if asked.group_by is None and plain and without is None:
            found = list(zip(*current.search(encoded_QD, asked.offset + asked.top_k, within), strict=True))
        else:
            own = files or [frozenset()] * len(encoded_QD)
            pairs = zip(encoded_QD, own, strict=True)
            found = [_chosen(*pair, current, within, asked, without, bank_Bd) for pair in pairs]
        return _hits(current, found, asked)

    def _query_bank(self) -> Rows:
        bank_Bd = getattr(self.model, "query_bank", None) if self._bank is None else self._bank
        if bank_Bd is None and self.model is None:
            raise ValueError("rerank needs a query bank: give Searcher(store, model), of a model that has one")
        if bank_Bd is None:
            whose = self.store.model.name
            raise ValueError(f"rerank: {whose} has no query bank; `onepeace querybank` makes one of your texts")
        return bank_Bd

    def _encoded(self, queries: Sequence[Any] | npt.NDArray[np.float32], current: Searchable) -> Rows:
        """Return unit rows (Q, D)."""
        parts: list[Any] = []  # of all queries
        weights: list[list[float]] = []
        for query in queries:
            if any(isinstance(part, Stored) for part in getattr(query, "parts", ())):
                parts += query.parts
                weights.append(query.weights)
            else:
                parts.append(query)
                weights.append([1.0])
        encoded_PD = self._encoded_parts(parts, current)
        summed_QD, start = np.empty((len(weights), encoded_PD.shape[1]), np.float32), 0
        for place, some in enumerate(weights):
            summed_QD[place] = np.asarray(some, np.float32) @ encoded_PD[start : start + len(some)]
            start += len(some)
        return unit_rows(summed_QD, encoded_PD.shape[1]) if len(weights) else summed_QD

    def _encoded_parts(self, parts: Sequence[Any], current: Searchable) -> Rows:
        dimension = self.store.model.dimension
        encoded_PD = np.empty((len(parts), dimension), dtype=np.float32)
        stored = [place for place, part in enumerate(parts) if isinstance(part, Stored)]
        if stored:
            encoded_PD[stored] = current.vectors_of([parts[place].id for place in stored])
        to_encode = []
        for place, part in enumerate(parts):
            if isinstance(part, np.ndarray):
                rows_1D = unit_rows(part, dimension)
                if len(rows_1D) != 1:
                    raise ValueError(f"a query is one vector, got {len(rows_1D)}: `search_many` takes several")
                encoded_PD[place] = rows_1D[0]
            elif not isinstance(part, Stored):
                to_encode.append(place)
        if to_encode:
            if self.model is None:
                raise ValueError("this Searcher has no model, so queries must be vectors: give Searcher(store, model)")
            encoded_PD[to_encode] = unit_rows(self.model.encode([parts[place] for place in to_encode]), dimension)
        return encoded_PD


def _hits(current: Searchable, found: Sequence[tuple[Rows, Keys]], asked: Wanted) -> list[Hits]:
    pages = []
    for scores_K, keys_K in found:
        kept = slice(asked.offset, asked.offset + asked.top_k)
        enough = slice(None) if asked.min_score is None else scores_K[kept] >= asked.min_score
        pages.append((scores_K[kept][enough], keys_K[kept][enough]))
    if not pages:
        return []
    keys = np.unique(np.concatenate([some for _, some in pages]))
    items = dict(zip(keys.tolist(), current.items(keys), strict=True))
    return [
        Hits(
            SearchHit(items[key], score, rank)
            for rank, (score, key) in enumerate(zip(*map(np.ndarray.tolist, page), strict=True), asked.offset + 1)
        )
        for page in pages
    ]


def _files_of(query: Any) -> frozenset[str]:
    """Return the absolute paths of the files that a query is made of."""
    sources = [getattr(part, "source", None) for part in getattr(query, "parts", [query])]
    return frozenset(os.path.abspath(source) for source in sources if isinstance(source, str | os.PathLike))


def _chosen(
    query_D: Rows,
    files: frozenset[str],
    current: Searchable,
    within: Any | None,
    asked: Wanted,
    without: str | None,
    bank_Bd: Rows | None,
) -> tuple[Rows, Keys]:
    """Return scores and keys for one query, best first, as many as there may be of those that are wanted.

    More are the same and further ones, so that pages fit together. `files` are the query's: of copies, one of them is
    kept. With a bank the nearest are ordered anew by it.
    """
    wanted, pool = asked.offset + asked.top_k, POOL * asked.top_k
    enough = max(wanted, pool) if asked.diversity else wanted
    count = enough + 1 if asked.group_by is None else enough * POOL + 1
    if bank_Bd is not None:
        count = max(count, CANDIDATES)
    while True:
        [(scores_C, keys_C)] = zip(*current.search(query_D[None], count, within), strict=True)
        if asked.min_score is not None:  # before the order changes, so that pages are full and fit together
            enough_C = scores_C >= asked.min_score
            scores_C, keys_C = scores_C[enough_C], keys_C[enough_C]
        found = len(keys_C)
        if bank_Bd is not None:
            near = slice(CANDIDATES)  # the same for every page
            better_C = bank_scores(query_D, current.vectors_at(keys_C[near]), bank_Bd)
            places = np.argsort(-better_C, kind="stable").tolist()
            scores_C, keys_C = _ordered(places, scores_C, keys_C)
        if asked.group_by is not None or not asked.copies or without is not None:
            items = [item if item.id != without else None for item in current.items(keys_C)]
            if not asked.copies:
                items = _without_copies(items, files)
            places = _first_of_each(items, asked.group_by)
            scores_C, keys_C = scores_C[places], keys_C[places]
        if len(keys_C) >= enough or found < count or count >= LONGEST_LOOK:
            break
        count = min(4 * count, max(LONGEST_LOOK, enough + 1))
    if asked.diversity:
        near = slice(min(pool, len(keys_C)))  # the same for every page
        places = _diverse(current.vectors_at(keys_C[near]), scores_C[near], asked.diversity)
        scores_C, keys_C = _ordered(places, scores_C, keys_C)
    return scores_C[:wanted], keys_C[:wanted]


def _ordered(places: list[int], scores_C: Rows, keys_C: Keys) -> tuple[Rows, Keys]:
    """Return scores and keys with the first of them in the order of their places, and those behind as they are."""
    order = [*places, *range(len(places), len(keys_C))]
    return scores_C[order], keys_C[order]


def _first_of_each(items: Sequence[Item | None], field: str | None) -> list[int]:
    """Return the places of the first item of each value of a field; an item without it stands alone, None nowhere."""
    places: dict[Any, int] = {}
    for place, item in enumerate(items):
        if item is None:
            continue
        value: Any = place
        if field in COLUMNS:
            value = (getattr(item, field),)
        elif field in item.metadata:
            value = (repr(item.metadata[field]),)
        places.setdefault(value, place)
    return list(places.values())


def _without_copies(items: Sequence[Item | None], files: frozenset[str]) -> list[Item | None]:
    """Return the items with one of each content, the first or that of the files, and None for the others.

    Where a content is not known, all differ.
    """
    kept: dict[str, Item] = {}
    for item in items:
        if item is not None and item.content is not None and (item.uri in files or item.content not in kept):
            kept[item.content] = item
    return [item if item is None or item.content is None or kept[item.content] is item else None for item in items]


def _diverse(rows_CD: Rows, scores_C: Rows, diversity: float) -> list[int]:
    """Return all places by maximal marginal relevance (Carbonell and Goldstein, 1998, eq. 1)."""
    chosen: list[int] = []
    nearest_C = np.full(len(rows_CD), -np.inf, np.float32)  # similarity to what is chosen
    while len(chosen) < len(rows_CD):
        value_C = scores_C if not chosen else (1 - diversity) * scores_C - diversity * nearest_C
        value_C = value_C.copy()
        value_C[chosen] = -np.inf
        chosen.append(int(np.argmax(value_C)))
        nearest_C = np.maximum(nearest_C, rows_CD @ rows_CD[chosen[-1]])
    return chosen
