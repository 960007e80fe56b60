"""Measures of retrieval and classification, as pure functions on arrays. N: queries, M: keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def recall_at_k(
    scores_NM: NDArray[np.floating], query_ids: ArrayLike, key_ids: ArrayLike, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Return, for each k, the percentage of queries with a key of their own id among the k best.

    This is the protocol of COCO and Flickr30k: a picture counts as found by any of its captions. Ties are broken by the
    order of the keys.

    Raises:
        ValueError: the scores do not have one row a query id and one column a key id, or are not finite.
    """
    queries_N, keys_M = np.asarray(query_ids), np.asarray(key_ids)
    if scores_NM.shape != (len(queries_N), len(keys_M)):
        raise ValueError(f"scores must have shape {(len(queries_N), len(keys_M))}, got {scores_NM.shape}")
    if not np.isfinite(scores_NM).all():
        raise ValueError("scores must be finite")
    if not len(queries_N) or not len(keys_M):
        raise ValueError("recall needs at least one query and one key")
    ranked_NK = np.argsort(-scores_NM, axis=1, kind="stable")[:, : max(ks)]
    right_NK = keys_M[ranked_NK] == queries_N[:, None]
    return {k: 100.0 * float(right_NK[:, :k].any(axis=1).mean()) for k in ks}


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the percentage of predictions that equal their label."""
    predicted_N, labels_N = np.asarray(predicted), np.asarray(labels)
    if predicted_N.shape != labels_N.shape or not len(labels_N):
        raise ValueError(f"expected one prediction a label, got {predicted_N.shape} and {labels_N.shape}")
    return 100.0 * float((predicted_N == labels_N).mean())
