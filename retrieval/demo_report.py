"""What the demo found, for the table and the page to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .catalog import Item
    from .search import SearchHit


@dataclass(frozen=True)
class Search:
    """A query and what it found, nearest first."""

    query: tuple[Item | str, ...]  # several parts where it is composed
    hits: list[SearchHit]


@dataclass(frozen=True, kw_only=True)
class DirectionReport:
    """How well one modality finds another in the whole gallery: shares of the queries, 0 to 1, by k of KS."""

    query: str  # a modality
    target: str  # a modality
    queries: int
    candidates: int
    own: dict[int, float] | None  # those that found their own caption, or its owner; None between pictures and sounds
    concept: dict[int, float]  # those that found something about the same concept
    chance: dict[int, float]  # `concept`, had the candidates been shuffled
    examples: list[Search]


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demo did and found."""

    model: str
    dimension: int
    counts: dict[str, int]  # items of each modality
    seconds: float
    directions: list[DirectionReport]
    mixes: list[tuple[Search, Search, Search]]  # each part alone, then both as one query
    neighbours: dict[str, dict[str, list[SearchHit]]]  # by item and modality, nearest first, without the item itself
    folder: Path

    @property
    def page(self) -> Path:
        """The page to look at."""
        return self.folder / "index.html"

    @property
    def store(self) -> Path:
        """The store to go on with."""
        return self.folder / "store"
