"""Asking videos and documents of a store: a text reads each as a sequence, by what the store has of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .catalog import Item
from .filters import Where
from .hits import Hits
from .parts import place_of

if TYPE_CHECKING:
    from .search import Searcher

CANDIDATES = 20  # files that are read, at most: those with the nearest parts
LONGEST = 10_000  # parts of a file that are read


class AskedModel(Protocol):
    """What asking needs of a model; `onepeace.Embedder` has it.

    >>> album = model.encode_sequence(onepeace.Sequence(["a dog", "rain"]))
    >>> model.ask("what is in item 2?", album).segment.number
    2
    """

    def ask(self, texts: str, album: Any) -> Any:
        """Return what a sequence says to a text."""


def asked(searcher: Searcher, text: str, top_k: int, where: Where | None) -> Hits:
    """Return a part of each file that is asked, the best fitting file first."""
    from onepeace.sequences import Segment, SequenceEmbedding

    from .search import SearchHit

    if searcher.model is None or not hasattr(searcher.model, "ask"):
        raise ValueError("this Searcher has no model that asks sequences: give Searcher(store, model)")
    model: Any = searcher.model
    current = searcher.store.current
    near = searcher.search(text, max(top_k, CANDIDATES), where, group_by="uri")
    found: list[tuple[float, Item]] = []
    query_1D = model.encode([text])
    for uri in dict.fromkeys(hit.item.uri for hit in near if place_of(hit.item) is not None):
        [(_, keys)] = zip(*current.search(query_1D, LONGEST, current.select({"uri": uri})), strict=True)
        items, rows_ND = current.items(keys), current.vectors_at(keys)
        order = in_order(items)
        album = [Segment(n, items[at].modality, rows_ND[at]) for n, at in enumerate(order, start=1)]
        answer = model.ask(text, SequenceEmbedding(album))
        found.append((answer.match, items[order[answer.segment.number - 1]]))
    found.sort(key=lambda one: -one[0])
    return Hits(SearchHit(item, score, rank) for rank, (score, item) in enumerate(found[:top_k], start=1))


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
