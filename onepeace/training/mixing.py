"""Which sounds are mixed with which others, decided before a view of theirs is cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TRIES = 16  # to find a partner that shows something else


class Origin(NamedTuple):
    """A row of one of a stream's sources."""

    source: int
    row: int


def draw_partners(
    concepts: Sequence[Sequence[str]],
    readable: Sequence[np.ndarray],
    weights: Sequence[float],
    share: float,
    source: int,
    seed: int,
    view: int,
) -> list[Origin | None]:
    """Return the partner of each row of a source in one view, or None for those that stay alone.

    `concepts` and `readable` (bool) are of all rows of all sources of the stream. A partner's source is drawn by weight
    and shows another concept; a row that cannot be read is no partner, but may have one.
    """
    pools = [np.flatnonzero(rows) for rows in readable]
    chance = np.asarray(weights) / sum(weights)
    partners: list[Origin | None] = []
    for row, concept in enumerate(concepts[source]):
        rng = np.random.default_rng([seed, view, source, row])
        partner = None
        for _ in range(TRIES if rng.random() < share else 0):
            other = int(rng.choice(len(pools), p=chance))
            candidate = Origin(other, int(rng.choice(pools[other])))
            if concepts[other][candidate.row] != concept:
                partner = candidate
                break
        partners.append(partner)
    return partners
