"""Retrieval between two sides: who finds whom, and how early. N: queries, M: keys, D: embedding dimension.

`onepeace eval` and `onepeace train validate` both count here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onepeace.metrics import chance_recall, right_ranks

BLOCK = 1 << 23  # scores that are held at a time


@dataclass(frozen=True)
class Side:
    """What searches or is found. Rows of two sides belong to each other where their ids are equal."""

    vectors: NDArray[np.float32]  # (N, D), unit rows
    ids: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Ranking:
    """How early each query finds its first right key."""

    ranks: NDArray[np.int64]  # (N,) keys before the first right one
    rights: NDArray[np.int64]  # (N,) right keys of each query
    keys: int

    def recall(self, k: int) -> float:
        """Return the percentage of queries with a right key among the k best."""
        return 100.0 * float((self.ranks < k).mean())

    def chance(self, k: int) -> float:
        """Return the recall, in percent, that a random order is expected to reach."""
        return chance_recall(self.rights, self.keys, k)


def search(queries: Side, keys: Side) -> Ranking:
    """Let every query rank all keys by their cosine."""
    names, counts = np.unique(keys.ids, return_counts=True)
    place_N = np.searchsorted(names, queries.ids).clip(max=len(names) - 1)
    rights_N = np.where(names[place_N] == queries.ids, counts[place_N], 0)
    step = max(1, BLOCK // len(keys))
    parts = [slice(start, start + step) for start in range(0, len(queries), step)]
    ranks = [right_ranks(queries.vectors[part] @ keys.vectors.T, queries.ids[part], keys.ids) for part in parts]
    return Ranking(np.concatenate(ranks), rights_N, len(keys))


def search_both_ways(left: Side, right: Side) -> tuple[Ranking, Ranking]:
    """Return how left finds right, and how right finds left."""
    return search(left, right), search(right, left)
