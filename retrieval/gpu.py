"""FAISS on a GPU, where the extra `gpu` brought one: the only place that knows of it. Nothing changes elsewhere.

Q: queries, N: rows, D: width, k: how many are wanted.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

import faiss
import numpy as np

from .precision import Rows

MOST = 2_048  # places for a query, that FAISS fills on a GPU
_log = logging.getLogger(__name__)
_turns = threading.Lock()  # the resources of a GPU are for one thread at a time


def available() -> bool:
    """Tell whether FAISS was built for GPUs and sees one."""
    return bool(getattr(faiss, "get_num_gpus", int)())


class Copy:
    """A structure's copy in the memory of the first GPU. Threads take turns."""

    def __init__(self, structure: Any) -> None:
        self._structure = structure

    def search(self, queries_QD: Rows, k: int, params: Any) -> Any:
        """Return what the structure itself returns."""
        with _turns:
            return self._structure.search(queries_QD, k, params=params)


def copied(structure: Any) -> Any:
    """Return a copy on the GPU; without a GPU, or for a structure that FAISS has none for, the structure itself."""
    if not available():
        return structure
    library: Any = faiss
    try:
        return Copy(library.index_cpu_to_gpu(_resources(), 0, structure))
    except RuntimeError as error:
        _stays(type(structure).__name__, str(error).rsplit("Error: ", 1)[-1].strip())
        return structure


def knn(queries_QD: Rows, rows_ND: Rows, k: int) -> tuple[Rows, Any]:
    """Return the k best scores and places among some rows, by comparing all."""
    library: Any = faiss
    metric = library.METRIC_INNER_PRODUCT
    rows_ND = np.ascontiguousarray(rows_ND)
    if k <= MOST and available():
        with _turns:
            found: tuple[Rows, Any] = library.knn_gpu(_resources(), queries_QD, rows_ND, k, metric=metric)
            return found
    scores_QK, places_QK = faiss.knn(queries_QD, rows_ND, k, metric=metric)
    return scores_QK, places_QK


@functools.cache
def _resources() -> Any:
    library: Any = faiss
    return library.StandardGpuResources()


@functools.cache  # said once
def _stays(name: str, reason: str) -> None:
    _log.warning("%s stays in main memory, as FAISS cannot copy it to the GPU: %s", name, reason)
