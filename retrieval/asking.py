"""Asking videos and documents of a store: a text reads each as a sequence, by what the store has of it.

N: parts of a file, D: width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .catalog import Item
from .filters import Combined, Compare, Where, parse_where
from .hits import Hits
from .parts import place_of
from .precision import Rows

if TYPE_CHECKING:
    from .search import AskedHit, Searchable, Searcher

CANDIDATES = 20  # files that are read, at most: those with the nearest parts
LONGEST = 10_000  # parts of a file that are read
PLACES = (Compare("page", "1", ">="), Compare("start", "0", ">="))  # what the metadata of a part tell


class AskedModel(Protocol):
    """What asking needs of a model; `onepeace.Embedder` has it.

    >>> album = model.encode_sequence(onepeace.Sequence(["a dog", "rain"]))
    >>> model.ask("what is in item 2?", album).segment.number
    2
    """

    def ask(self, texts: str, album: Any) -> Any:
        """Return what a sequence says to a text."""


class Album(NamedTuple):
    """A file as a store has it: its parts in order."""

    items: list[Item]
    vectors: Rows  # (N, D)


def asked(searcher: Searcher, text: str, top_k: int, where: Where | None) -> Hits:
    """Return a part of each file that is asked, the best fitting file first."""
    from onepeace.sequences import Segment, SequenceEmbedding

    if searcher.model is None or not hasattr(searcher.model, "ask"):
        raise ValueError("this Searcher has no model that asks sequences: give Searcher(store, model)")
    model: Any = searcher.model
    query_1D = model.encode([text])
    found: list[tuple[Album, Any]] = []
    for uri in near_files(searcher, query_1D, top_k, where):
        album = album_of(searcher.store.current, uri, query_1D)
        if album.items:  # it is still there
            parts = enumerate(zip(album.items, album.vectors, strict=True), start=1)
            segments = [Segment(number, item.modality, row_D) for number, (item, row_D) in parts]
            found.append((album, model.ask(text, SequenceEmbedding(segments))))
    return Hits(answers(found, top_k))


def has_parts(current: Searchable) -> bool:
    """Tell whether a store may hold parts of files, by the fields of its items."""
    return any(place.field in current.fields() for place in PLACES)


def near_files(searcher: Searcher, query_1D: Rows, top_k: int, where: Where | None) -> list[str]:
    """Return the addresses of the videos, documents and cut sounds whose parts are nearest to a text's vector."""
    count = max(top_k, CANDIDATES)
    near = searcher.search(query_1D[0], count, where, group_by="uri")
    if any(place_of(hit.item) is None for hit in near):  # pictures and texts stand where parts could
        known = tuple(place for place in PLACES if place.field in searcher.store.current.fields())
        if not known:
            return []
        parts = Combined("OR", known)
        where = parts if where is None else Combined("AND", (parse_where(where), parts))
        near = searcher.search(query_1D[0], count, where, group_by="uri")
    return list(dict.fromkeys(hit.item.uri for hit in near if place_of(hit.item) is not None))


def album_of(current: Searchable, uri: str, query_1D: Rows) -> Album:
    """Return what a store has of a file; where that is too much, the parts that are nearest to a text's vector."""
    [(_, keys)] = zip(*current.search(query_1D, LONGEST, current.select({"uri": uri})), strict=True)
    items = current.items(keys)
    order = in_order(items)
    return Album([items[place] for place in order], current.vectors_at(keys)[order])


def answers(found: Iterable[tuple[Album, Any]], top_k: int) -> list[AskedHit]:
    """Return what albums say, each with a `SequenceAnswer` or a `Reading`: the best first, and none that lacks it."""
    from .search import AskedHit

    there = [one for one in found if one[1].absent < 0.5]
    best = sorted(there, key=lambda one: -one[1].match)[:top_k]
    return [
        AskedHit(album.items[int(said.weights.argmax())], said.match, rank, float(said.weights.max()))
        for rank, (album, said) in enumerate(best, start=1)
    ]


def in_order(items: Sequence[Item]) -> list[int]:
    """Return the places of a file's parts in the order that its sequence has them: sounds behind frames of one time.

    >>> pages = [Item(f"a.pdf#page={page}", "image", "a.pdf", {"page": page}) for page in (10, 2, 1)]
    >>> in_order(pages)
    [2, 1, 0]
    """
    keyed = []
    for number, item in enumerate(items):
        place = place_of(item)
        if place is not None:
            keyed.append((place.page or place.start or 0.0, item.modality == "audio", number))
    return [number for *_, number in sorted(keyed)]
