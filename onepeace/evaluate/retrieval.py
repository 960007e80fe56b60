"""What a search in both directions found, with its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onepeace.evaluate.bootstrap import mean_intervals
from onepeace.evaluate.examples import Example, Shown, draw_examples
from onepeace.evaluate.measurement import Measurement
from onepeace.evaluate.search import Ranking, Side, search

KS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """A ranking, with where it comes from and which queries belong together."""

    source: str
    task: str  # "text to image", ...
    ranking: Ranking
    clusters: Sequence[str]  # (N,) what is drawn together in a resample
    examples: Sequence[Example] = ()
    language: str | None = None

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Return recall at each of `KS`."""
        ranking = self.ranking
        hits_NK = np.stack([ranking.ranks < k for k in KS], axis=1)
        lows, highs = 100.0 * mean_intervals(hits_NK, self.clusters)
        return [
            Measurement(
                self.source,
                self.task,
                f"R@{k}",
                ranking.recall(k),
                len(ranking.ranks),
                ranking.keys,
                float(low),
                float(high),
                ranking.chance(k),
                self.language,
            )
            for k, low, high in zip(KS, lows, highs, strict=True)
        ]


@dataclass(frozen=True)
class Collection:
    """One side of a search, with how it is named, grouped and shown."""

    kind: str  # "text", "image", "audio"
    side: Side
    clusters: Sequence[str]
    shown: Sequence[Shown]


def retrieve_both_ways(
    source: str, left: Collection, right: Collection, language: str | None = None
) -> Iterator[Retrieval]:
    """Yield how left finds right, and how right finds left. What has no partner is found, and asks for nothing."""
    for queries, keys in ((left, right), (right, left)):
        asking = np.flatnonzero(np.isin(queries.side.ids, keys.side.ids))
        side = Side(queries.side.vectors[asking], queries.side.ids[asking])
        ranking = search(side, keys.side)
        shown = [queries.shown[i] for i in asking.tolist()]
        yield Retrieval(
            source,
            f"{queries.kind} to {keys.kind}",
            ranking,
            [queries.clusters[i] for i in asking.tolist()],
            draw_examples(side, keys.side, ranking.ranks, (shown, keys.shown)),
            language,
        )
