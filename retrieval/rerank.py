"""The nearest items, ordered anew by how they stand to texts in general. C: candidates, B: texts of a bank.

Cosines across modalities have two faults, and a bank of texts as people search with mends both. Some items are near to
every query (hubs: Radovanovic et al., 2010, JMLR 11), so what an item is near to anyway is taken off its score, as by
querybank normalisation (Bogolin et al., 2022, arXiv:2112.12777). And what a vector says beside its meaning, such as
that it is of a picture, counts too: so items that are near to the same texts as the query gain, as in query by semantic
example (Rasiwasia et al., 2007), whatever their cosine is.
"""

from __future__ import annotations

import numpy as np

from .precision import Rows

CANDIDATES = 100  # so many of the nearest are ordered anew: 25 pictures find as much, but frames of a film are alike
# Chosen on Flickr8k's and Caltech-101's validation rows, where 20 to 40, 0.5 to 0.7 and 0.1 to 0.2 do as well.
SHARPNESS = 25.0  # of the softmax over texts: the inverse of its temperature
HUBS = 0.5  # share of what an item is near to anyway that is taken off
AGREEMENT = 0.1  # what being near to the very same texts adds


def bank_scores(query_D: Rows, rows_CD: Rows, bank_Bd: Rows) -> Rows:
    """Return scores (C,) of unit rows for a unit query, to be compared among themselves.

    score = cosine - HUBS * h + AGREEMENT * a, where h = log(mean over texts of exp(SHARPNESS * cosine)) / SHARPNESS,
    and a is the Bhattacharyya coefficient of the softmaxes of query and item over texts. A bank of d numbers is
    compared with the first d of each row.

    >>> bank = np.eye(2, dtype=np.float32)
    >>> query, one, other = np.array([[0.8, 0.6], [0.6, 0.8], [0.96, 0.28]], np.float32)
    >>> bank_scores(query, np.stack([one, other]), bank).astype(float).round(2).tolist()
    [0.59, 0.57]
    """
    roots_CB, near_C = _near(rows_CD, bank_Bd)
    roots_1B, _ = _near(query_D[None], bank_Bd)
    scores_C: Rows = rows_CD @ query_D - HUBS * near_C + AGREEMENT * (roots_CB @ roots_1B[0])
    return scores_C


def _near(rows_ND: Rows, bank_Bd: Rows) -> tuple[Rows, Rows]:
    """Return the square roots of the softmax of rows over texts (N, B), and how near to texts in general they are (N,).

    A row of roots has length one: it is exp(SHARPNESS / 2 * cosine), normalised.
    """
    width = min(rows_ND.shape[1], bank_Bd.shape[1])
    halves_NB = (SHARPNESS / 2 * _first(rows_ND, width)) @ _first(bank_Bd, width).T
    highest_N1 = halves_NB.max(axis=1, keepdims=True)
    roots_NB = np.exp(halves_NB - highest_N1)
    lengths_N1 = np.linalg.norm(roots_NB, axis=1, keepdims=True)
    near_N: Rows = (2 * (np.log(lengths_N1) + highest_N1) - np.log(len(bank_Bd)))[:, 0] / SHARPNESS
    return roots_NB / lengths_N1, near_N


def _first(rows: Rows, numbers: int) -> Rows:
    """Return the first numbers of rows at length one again; what is zero there stays zero."""
    if numbers == rows.shape[1]:
        return rows
    short = rows[:, :numbers]
    out: Rows = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return out
