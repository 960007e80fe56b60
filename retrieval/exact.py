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
    for segment in vectors.segments:
        inside_QC = (rows_QC >= segment.first) & (rows_QC < segment.end)
        if not inside_QC.any():
            continue
        if segment.stored.dtype == np.float32:
            found_QC = _scores_in_place(queries_QD, segment, np.where(inside_QC, rows_QC - segment.first, NOTHING))
            np.copyto(scores_QC, found_QC, where=inside_QC)
        else:
            query_places, _ = np.nonzero(inside_QC)
            rows_ND = from_stored(segment.stored[rows_QC[inside_QC] - segment.first])
            scores_QC[inside_QC] = np.einsum("nd,nd->n", rows_ND, queries_QD[query_places])
    return ordered(scores_QC, rows_QC, k)


def _scores_in_place(queries_QD: Rows, segment: Segment, places_QC: Ids) -> Rows:
    """Return inner products with rows of a mapped file, of which no copy is made; -inf where a place is `NOTHING`."""
    library: Any = faiss  # its stubs know no pointers
    scores_QC = np.empty(places_QC.shape, np.float32)
    arrays = (scores_QC, queries_QD, segment.stored, np.ascontiguousarray(places_QC))
    library.fvec_inner_products_by_idx(*map(library.swig_ptr, arrays), queries_QD.shape[1], *places_QC.shape)
    return scores_QC


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
