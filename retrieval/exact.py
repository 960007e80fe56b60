"""The nearest rows by comparing all of them: what approximate search is measured by, and falls back to.

Q: queries, N: rows, D: width, k: how many are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from . import gpu
from .precision import Rows
from .segments import ROWS_AT_ONCE, VectorRows

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# From so many queries on FAISS multiplies matrices instead of comparing pairs, which takes a quarter of the time; its
# own default of 128,000 never comes. It is one setting for the whole process.
cast(Any, faiss).cvar.distance_compute_blas_threshold = 20
PAIRS_AT_ONCE = 1_024  # that are brought to float32 together, so that they stay in the processor's cache
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
    """Return the k best of each query's own candidates (Q, C) by their true scores."""
    rows_QC = np.sort(rows_QC, axis=1)  # as they lie in the files
    queries_P = np.repeat(np.arange(len(rows_QC)), rows_QC.shape[1])  # P: pairs of a query and a candidate
    products = _mapped_products if vectors.kind == np.float32 else _converted_products
    scores_P = products(queries_QD, queries_P, vectors, rows_QC.reshape(-1))
    return ordered(scores_P.reshape(rows_QC.shape), rows_QC, k)


def _mapped_products(queries_QD: Rows, queries_P: Ids, vectors: VectorRows, rows_P: Ids) -> Rows:
    """Return the inner product of each pair of a query and a row (P,), -inf for `NOTHING`; no row is copied."""
    library: Any = faiss  # its stubs know no pointers
    products_P = np.empty(len(rows_P), np.float32)
    for address, here, places_H in vectors.located(rows_P):
        queries_H, products_H = queries_P[here], np.empty(len(places_H), np.float32)
        queries, of_query, of_row, products = map(library.swig_ptr, (queries_QD, queries_H, places_H, products_H))
        rows = library.cast_integer_to_float_ptr(address)
        library.pairwise_indexed_inner_product(
            vectors.dimension, len(places_H), queries, of_query, rows, of_row, products
        )
        products_P[here] = products_H
    return products_P


def _converted_products(queries_QD: Rows, queries_P: Ids, vectors: VectorRows, rows_P: Ids) -> Rows:
    """Return the same of rows that are stored in fewer bytes, so many at once that they stay in the cache."""
    products_P = np.full(len(rows_P), -np.inf, np.float32)
    filled = np.flatnonzero(rows_P != NOTHING)
    for start in range(0, len(filled), PAIRS_AT_ONCE):
        here = filled[start : start + PAIRS_AT_ONCE]
        products_P[here] = np.einsum("pd,pd->p", vectors.take(rows_P[here]), queries_QD[queries_P[here]])
    return products_P


def empty(queries: int, k: int) -> tuple[Rows, Ids]:
    """Return k places for each query that nothing fills."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), NOTHING, np.int64)


def merged(one: tuple[Rows, Ids], other: tuple[Rows, Ids], k: int) -> tuple[Rows, Ids]:
    """Return the k best of two results."""
    return ordered(np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1), k)


def ordered(scores_QC: Rows, rows_QC: Ids, k: int) -> tuple[Rows, Ids]:
    """Return k places for each line: the best, best first, of equals those that come first."""
    lines_Q1 = scores_QC.shape[1] * np.arange(len(scores_QC))[:, None]
    places_QK = lines_Q1 + np.arange(scores_QC.shape[1])
    if k < scores_QC.shape[1]:
        chosen_QK = np.argpartition(scores_QC, -k, axis=1)[:, -k:]
        least_Q1 = np.take_along_axis(scores_QC, chosen_QK[:, :1], 1)  # the partition puts the k-th best there
        tied = np.flatnonzero((scores_QC >= least_Q1).sum(axis=1) > k)  # it chose any of several equals
        chosen_QK[tied] = np.argsort(-scores_QC[tied], axis=1, kind="stable")[:, :k]
        places_QK = lines_Q1 + np.sort(chosen_QK, axis=1)
    order_QK = np.argsort(-scores_QC.take(places_QK), axis=1, kind="stable")
    places_QK = np.take_along_axis(places_QK, order_QK, 1)
    scores_QK, rows_QK = scores_QC.take(places_QK), rows_QC.take(places_QK)
    lacking = ((0, 0), (0, k - scores_QK.shape[1]))
    if not lacking[1][1]:
        return scores_QK, rows_QK
    return np.pad(scores_QK, lacking, constant_values=-np.inf), np.pad(rows_QK, lacking, constant_values=NOTHING)


def _one_block(queries_QD: Rows, rows_ND: Rows, k: int, first: int, places: Ids | None) -> tuple[Rows, Ids]:
    """Return the k best of some rows: `first` is the first one's number, or `places` are all their numbers."""
    k = min(k, len(rows_ND))
    scores_QK, found_QK = _first_of_equals(queries_QD, rows_ND, k, min(k + 1, len(rows_ND)))
    return scores_QK, first + (found_QK if places is None else places[found_QK])


def _first_of_equals(queries_QD: Rows, rows_ND: Rows, k: int, asked: int) -> tuple[Rows, Ids]:
    """Return the k best, of equals the first; FAISS is asked for more, since it takes any of several equals."""
    scores_QA, found_QA = gpu.knn(queries_QD, rows_ND, asked)
    order_QK = np.lexsort((found_QA, -scores_QA), axis=1)[:, :k]
    scores_QK, found_QK = np.take_along_axis(scores_QA, order_QK, 1), np.take_along_axis(found_QA, order_QK, 1)
    if asked < len(rows_ND):
        tied = np.flatnonzero(scores_QA[:, -1] == scores_QK[:, -1])
        if len(tied):
            more = min(4 * asked, len(rows_ND))
            scores_QK[tied], found_QK[tied] = _first_of_equals(queries_QD[tied], rows_ND, k, more)
    return scores_QK, found_QK
