"""The nearest rows by comparing all of them: what approximate search is measured by, and falls back to.

Q: queries, N: rows, D: width, k: how many are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from .precision import Rows, from_stored
from .segments import ROWS_AT_ONCE, Segment, VectorRows

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# From so many queries on FAISS multiplies matrices instead of comparing pairs, which takes a quarter of the time; its
# own default of 128,000 never comes. It is one setting for the whole process.
cast(Any, faiss).cvar.distance_compute_blas_threshold = 20
NOTHING = -1  # the row of a place that no hit fills; its score is -inf


def nearest(
    queries_QD: Rows, blocks: Iterable[tuple[int, Rows]], k: int, allowed_N: Mask | None = None
) -> tuple[Rows, Ids]:
    """Return scores and numbers of the k best rows for each query (Q, k), best first, of equals the first.

    `blocks` are rows with the number of the first one; `allowed_N` says of every row's number whether it counts.
    """
    best = empty(len(queries_QD), k)
    for first, rows_ND in blocks:
        places = None
        if allowed_N is not None:
            allowed = allowed_N[first : first + len(rows_ND)]
            if not allowed.all():
                places = np.flatnonzero(allowed)
                rows_ND = rows_ND[places]
        if len(rows_ND):
            best = merged(best, _one_block(queries_QD, rows_ND, k, first, places), k)
    return best


def nearest_of(queries_QD: Rows, vectors: VectorRows, rows: Ids, k: int) -> tuple[Rows, Ids]:
    """Return what `nearest` does, of these rows (ascending) only."""
    best = empty(len(queries_QD), k)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        best = merged(best, _one_block(queries_QD, vectors.take(some), k, 0, some), k)
    return best


def rescored(queries_QD: Rows, vectors: VectorRows, rows_QC: Ids, k: int) -> tuple[Rows, Ids]:
    """Return the k best of each query's own candidates (Q, C) by their true scores; `NOTHING` stays last."""
    scores_QC = np.full(rows_QC.shape, -np.inf, np.float32)
    flat_P, rows_P = scores_QC.reshape(-1), rows_QC.reshape(-1)  # P: pairs of a query and a candidate
    segments_P = np.searchsorted([segment.first for segment in vectors.segments], rows_P, side="right") - 1
    for number, segment in enumerate(vectors.segments):
        pairs = np.flatnonzero((segments_P == number) & (rows_P != NOTHING))
        if len(pairs):
            flat_P[pairs] = _products(queries_QD, pairs // rows_QC.shape[1], segment, rows_P[pairs] - segment.first)
    return ordered(scores_QC, rows_QC, k)


def _products(queries_QD: Rows, queries_P: Ids, segment: Segment, places_P: Ids) -> Rows:
    """Return the inner product of each pair of a query and a row of a mapped file, of which no copy is made."""
    if segment.stored.dtype != np.float32:
        rows_PD = from_stored(segment.stored[places_P])
        products_P: Rows = np.einsum("pd,pd->p", rows_PD, queries_QD[queries_P])
        return products_P
    library: Any = faiss  # its stubs know no pointers
    products_P = np.empty(len(places_P), np.float32)
    arrays = (queries_QD, queries_P, segment.stored, places_P, products_P)
    library.pairwise_indexed_inner_product(queries_QD.shape[1], len(places_P), *map(library.swig_ptr, arrays))
    return products_P


def empty(queries: int, k: int) -> tuple[Rows, Ids]:
    """Return k places for each query that nothing fills."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NOTHING, np.int64)


def merged(one: tuple[Rows, Ids], other: tuple[Rows, Ids], k: int) -> tuple[Rows, Ids]:
    """Return the k best of two results."""
    return ordered(np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1), k)


def ordered(scores_QC: Rows, rows_QC: Ids, k: int) -> tuple[Rows, Ids]:
    """Return the k best of each line, best first; of equals those that come first."""
    order = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QC, order, 1), np.take_along_axis(rows_QC, order, 1)


def _one_block(queries_QD: Rows, rows_ND: Rows, k: int, first: int, places: Ids | None) -> tuple[Rows, Ids]:
    k = min(k, len(rows_ND))
    scores, found = faiss.knn(queries_QD, np.ascontiguousarray(rows_ND), k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, first + (found if places is None else places[found])
