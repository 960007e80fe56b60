"""Measures of finding any number of things, as pure functions on arrays. N: found, M: to be found, C: corners.

Places are boxes (left, top, right, bottom) or spans (start, end), a list of them for each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pairwise_overlaps(places_NC: ArrayLike, targets_MC: ArrayLike) -> NDArray[np.float64]:
    """Return the intersection over union of every place with every target, (N, M).

    >>> pairwise_overlaps([[0.0, 2.0]], [[1.0, 3.0], [5.0, 6.0]]).round(3).tolist()  # spans
    [[0.333, 0.0]]
    """
    low_N1A, high_N1A = np.split(_places(places_NC)[:, None], 2, axis=-1)
    low_1MA, high_1MA = np.split(_places(targets_MC)[None], 2, axis=-1)
    inside_NM = np.maximum(np.minimum(high_N1A, high_1MA) - np.maximum(low_N1A, low_1MA), 0.0).prod(axis=-1)
    union_NM = (high_N1A - low_N1A).prod(axis=-1) + (high_1MA - low_1MA).prod(axis=-1) - inside_NM
    out: NDArray[np.float64] = np.zeros(union_NM.shape)
    np.divide(inside_NM, union_NM, out=out, where=union_NM > 0.0)
    return out


def pairs(fits_NM: NDArray[np.bool_]) -> int:
    """Return how many of the found can be paired with one of the wanted each, where a pair must fit.

    >>> pairs(np.array([[True, True], [True, False]]))
    2
    """
    from scipy.optimize import linear_sum_assignment

    if not fits_NM.size:
        return 0
    return int(fits_NM[linear_sum_assignment(fits_NM, maximize=True)].sum())


def f1_at_overlap(found: Sequence[ArrayLike], wanted: Sequence[ArrayLike], threshold: float = 0.5) -> float:
    """Return the harmonic mean of precision and recall in percent, over the things of all rows together.

    A thing is found by one place that overlaps it by at least `threshold`, and each place finds one thing at most.
    Where nothing is to be found and nothing is, it is 100.

    >>> f1_at_overlap([[[0.0, 1.0]], [[0.0, 1.0]]], [[[0.0, 1.0], [2.0, 3.0]], []])
    50.0
    """
    _one_a_row(found, wanted)
    right = sum(pairs(pairwise_overlaps(f, w) >= threshold) for f, w in zip(found, wanted, strict=True))
    total = sum(len(_places(places)) for places in (*found, *wanted))
    return 100.0 * 2 * right / total if total else 100.0


def spans_within(found: Sequence[ArrayLike], wanted: Sequence[ArrayLike], seconds: float = 0.5) -> float:
    """Return the percentage of wanted spans that are found with both their ends at most so many seconds away.

    Each span that is found counts once.

    >>> spans_within([[[1.2, 2.4]]], [[[1.0, 2.0], [6.0, 7.0]]])
    50.0
    """
    _one_a_row(found, wanted)
    right = 0
    for places, targets in zip(found, wanted, strict=True):
        away_NM = np.abs(_places(places)[:, None] - _places(targets)[None]).max(axis=-1, initial=0.0)
        right += pairs(away_NM <= seconds)
    total = sum(len(_places(targets)) for targets in wanted)
    if not total:
        raise ValueError("no row has a span to be found")
    return 100.0 * right / total


def absence(found: Sequence[ArrayLike], wanted: Sequence[ArrayLike]) -> tuple[float, float]:
    """Return precision and recall of saying that nothing is there, in percent; NaN where it is never said, or never so.

    >>> absence([[], [], [[0.0, 1.0]]], [[], [[0.0, 1.0]], []])
    (50.0, 50.0)
    """
    _one_a_row(found, wanted)
    said_B, so_B = (np.array([len(_places(places)) == 0 for places in rows]) for rows in (found, wanted))
    right = int((said_B & so_B).sum())
    precision, recall = (100.0 * right / count if count else float("nan") for count in (said_B.sum(), so_B.sum()))
    return float(precision), float(recall)


def _places(places: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(places, dtype=np.float64)
    return array if array.ndim == 2 else array.reshape(0, 2)


def _one_a_row(found: Sequence[ArrayLike], wanted: Sequence[ArrayLike]) -> None:
    if len(found) != len(wanted) or not len(wanted):
        raise ValueError(f"expected what was found and what is wanted of each row, got {len(found)} and {len(wanted)}")
