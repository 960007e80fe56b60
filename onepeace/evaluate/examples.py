"""A few searches of an evaluation to look at: what was asked, what came first, and whether it was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.modality import Modality
from onepeace.evaluate.rows import Medium
from onepeace.evaluate.search import Side

SEED = 20231121
QUERIES = 6
HITS = 5


@dataclass(frozen=True)
class Shown:
    """An item as it is shown."""

    modality: Modality
    caption: str
    medium: Medium | None = None  # None: a text


@dataclass(frozen=True)
class Hit:
    """What a query found."""

    shown: Shown
    score: float  # cosine
    right: bool


@dataclass(frozen=True)
class Example:
    """One query and its best hits."""

    query: Shown
    hits: tuple[Hit, ...]
    rank: int | None  # keys before the first right one; None: there is no right one


def draw_examples(
    queries: Side, keys: Side, ranks: NDArray[np.int64], shown: tuple[Sequence[Shown], Sequence[Shown]]
) -> list[Example]:
    """Return examples of a search, drawn by chance and not by how well they went. `shown`: queries, then keys."""
    rng = np.random.default_rng([SEED, len(queries)])
    chosen: dict[int, int] = {}  # id -> query, so that one picture's captions come once
    for place in rng.permutation(len(queries)).tolist():
        chosen.setdefault(int(queries.ids[place]), place)
        if len(chosen) == QUERIES:
            break
    examples = []
    for place in sorted(chosen.values()):
        scores_M = keys.vectors @ queries.vectors[place]
        best = np.argsort(-scores_M, kind="stable")[:HITS].tolist()
        hits = tuple(
            Hit(shown[1][key], float(scores_M[key]), bool(keys.ids[key] == queries.ids[place])) for key in best
        )
        rank = int(ranks[place])
        examples.append(Example(shown[0][place], hits, rank if rank < len(keys) else None))
    return examples
