"""Measures of retrieval and classification, as pure functions on arrays. N: queries, M: keys, L: labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEVER = np.iinfo(np.int64).max  # the rank of a right answer that is not there
BLOCK = 1 << 22  # scores that are compared at a time


def right_ranks(scores_NM: NDArray[np.floating], query_ids: ArrayLike, key_ids: ArrayLike) -> NDArray[np.int64]:
    """Return, for each query, how many keys come before its first key of its own id; `NEVER` where none has that id.

    Ties are broken by the order of the keys.

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
    ranks_N = np.empty(len(queries_N), dtype=np.int64)
    step = max(1, BLOCK // len(keys_M))
    for start in range(0, len(queries_N), step):
        scores_BM = scores_NM[start : start + step]
        right_BM = keys_M == queries_N[start : start + step, None]
        best_B1 = np.max(scores_BM, axis=1, where=right_BM, initial=-np.inf, keepdims=True)
        before_B = np.count_nonzero(scores_BM > best_B1, axis=1)
        tied_T = np.flatnonzero(np.count_nonzero(scores_BM >= best_B1, axis=1) > before_B + 1)
        equal_TM = scores_BM[tied_T] == best_B1[tied_T]
        first_T1 = (right_BM[tied_T] & equal_TM).argmax(axis=1)[:, None]
        before_B[tied_T] += np.count_nonzero(equal_TM & (np.arange(len(keys_M)) < first_T1), axis=1)
        ranks_N[start : start + step] = np.where(right_BM.any(axis=1), before_B, NEVER)
    return ranks_N


def recall_at_k(
    scores_NM: NDArray[np.floating], query_ids: ArrayLike, key_ids: ArrayLike, ks: Sequence[int] = (1, 5, 10)
) -> dict[int, float]:
    """Return, for each k, the percentage of queries with a key of their own id among the k best.

    This is the protocol of COCO and Flickr30k: a picture counts as found by any of its captions. Ties are broken by the
    order of the keys.

    Raises:
        ValueError: the scores do not have one row a query id and one column a key id, or are not finite.
    """
    ranks_N = right_ranks(scores_NM, query_ids, key_ids)
    return {k: 100.0 * float((ranks_N < k).mean()) for k in ks}


def chance_recall(rights: ArrayLike, keys: int, k: int) -> float:
    """Return the recall at `k`, in percent, that a random order of `keys` keys is expected to reach.

    Query i has `rights[i]` right keys. All of them are missed with the hypergeometric probability
    C(keys - rights, k) / C(keys, k).
    """
    missed_N = np.ones(np.shape(rights))
    for j in range(min(k, keys)):
        missed_N *= np.maximum(keys - j - np.asarray(rights), 0) / (keys - j)
    return 100.0 * float((1.0 - missed_N).mean())


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return the percentage of predictions that equal their label."""
    predicted_N, labels_N = np.asarray(predicted), np.asarray(labels)
    if predicted_N.shape != labels_N.shape or not len(labels_N):
        raise ValueError(f"expected one prediction a label, got {predicted_N.shape} and {labels_N.shape}")
    return 100.0 * float((predicted_N == labels_N).mean())


def confusion_matrix(true: NDArray[np.integer], predicted: NDArray[np.integer], labels: int) -> NDArray[np.int64]:
    """Return how often each label (row) was taken for each label (column), (L, L)."""
    counts_LL = np.bincount(true * labels + predicted, minlength=labels * labels).reshape(labels, labels)
    return counts_LL.astype(np.int64)


def class_recalls(confusion_LL: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the percentage of each label's rows that were told right, (L,); NaN for a label without rows."""
    rows_L = confusion_LL.sum(axis=1)
    out: NDArray[np.float64] = np.full(len(rows_L), np.nan)
    np.divide(100.0 * confusion_LL.diagonal(), rows_L, out=out, where=rows_L > 0)
    return out


def expected_calibration_error(probabilities_NL: NDArray[np.floating], labels: ArrayLike, bins: int = 15) -> float:
    """Return how far confidence and accuracy lie apart, from 0 (best) to 1.

    This is that of Naeini et al. (2015), with the bins of Guo et al. (2017, arXiv:1706.04599, eq. 3). Rows go into
    `bins` bins of equal width by the probability of their likeliest label. The error is the mean over rows of the gap,
    in the row's bin, between that mean probability and the share of rows whose likeliest label is right.

    >>> round(expected_calibration_error(np.array([[0.9, 0.1], [0.9, 0.1]]), [0, 1]), 6)
    0.4

    Raises:
        ValueError: not one label a row, no rows, or no bins.
    """
    labels_N = np.asarray(labels)
    if probabilities_NL.ndim != 2 or labels_N.shape != probabilities_NL.shape[:1] or not len(labels_N) or bins < 1:
        raise ValueError(
            f"expected rows of probabilities and a label each, got shapes {probabilities_NL.shape} and {labels_N.shape}"
        )
    confidence_N = probabilities_NL.max(axis=1)
    right_N = probabilities_NL.argmax(axis=1) == labels_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    gaps_B = np.bincount(bin_N, confidence_N, bins) - np.bincount(bin_N, right_N, bins)
    return float(np.abs(gaps_B).sum() / len(labels_N))


def negative_log_likelihood(probabilities_NL: NDArray[np.floating], labels: ArrayLike) -> float:
    """Return the mean of -log of the probability that each row's own label got, in nats.

    >>> round(negative_log_likelihood(np.array([[0.5, 0.5], [0.9, 0.1]]), [0, 0]), 4)
    0.3993
    """
    labels_N = np.asarray(labels)
    own_N = probabilities_NL[np.arange(len(labels_N)), labels_N]
    return -float(np.log(np.maximum(own_N, np.finfo(np.float64).tiny)).mean())


def soft_accuracy(scores_NL: NDArray[np.floating], targets_NL: NDArray[np.floating]) -> float:
    """Return the mean target of the best-scored label, in percent: the accuracy of visual question answering.

    An answer's target is min(1, people who gave it / 3) (Antol et al., 2015, arXiv:1505.00468, section 3.2).

    >>> soft_accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.0, 0.5], [1.0, 0.0]]))
    75.0
    """
    _same_shape(scores_NL, targets_NL)
    return 100.0 * float(targets_NL[np.arange(len(scores_NL)), scores_NL.argmax(axis=1)].mean())


def average_precisions(scores_NL: NDArray[np.floating], targets_NL: ArrayLike) -> NDArray[np.float64]:
    """Return each label's average precision in percent, (L,); NaN for a label that no row has.

    It is the sum over the ranks of precision times the gain in recall, rows of one score taken together. Its mean over
    the labels is the mAP of tagging.

    >>> average_precisions(np.array([[0.9], [0.5], [0.1]]), np.array([[1], [0], [1]]))
    array([83.33333333])
    """
    right_NL = np.asarray(targets_NL, dtype=bool)
    _same_shape(scores_NL, right_NL)
    out = np.full(scores_NL.shape[1], np.nan)
    for label, (scores_N, right_N) in enumerate(zip(scores_NL.T, right_NL.T, strict=True)):
        if not right_N.any():
            continue
        order_N = np.argsort(-scores_N, kind="stable")
        ends_T = np.append(np.flatnonzero(np.diff(scores_N[order_N])), len(order_N) - 1)  # of runs of one score
        found_T = right_N[order_N].cumsum()[ends_T]
        gains_T = np.diff(found_T, prepend=0) / right_N.sum()
        out[label] = 100.0 * float((gains_T * found_T / (ends_T + 1)).sum())
    return out


def box_overlaps(boxes_N4: NDArray[np.floating], targets_N4: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of each pair of boxes (left, top, right, bottom), (N,).

    It is 0 where the boxes do not meet or a box has its corners out of order.

    >>> box_overlaps(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]]))
    array([0.33333333])
    """
    _same_shape(boxes_N4, targets_N4)
    boxes, targets = np.asarray(boxes_N4, dtype=np.float64), np.asarray(targets_N4, dtype=np.float64)
    shared_N2 = np.minimum(boxes[:, 2:], targets[:, 2:]) - np.maximum(boxes[:, :2], targets[:, :2])
    inside_N = np.where((shared_N2 > 0.0).all(axis=1), shared_N2.prod(axis=1), 0.0)
    union_N = sum((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, targets)) - inside_N
    out: NDArray[np.float64] = np.zeros(len(boxes))
    np.divide(inside_N, union_N, out=out, where=(inside_N > 0.0) & (union_N > 0.0))
    return out


def box_accuracy(boxes_N4: NDArray[np.floating], targets_N4: NDArray[np.floating], threshold: float = 0.5) -> float:
    """Return the percentage of boxes that overlap their target by at least `threshold` (Yu et al., 2016, RefCOCO).

    >>> box_accuracy(np.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]]), np.array([[0.0, 0.0, 2.0, 1.0]] * 2))
    100.0
    """
    overlaps_N = box_overlaps(boxes_N4, targets_N4)
    return 100.0 * float(((overlaps_N >= threshold) & (overlaps_N > 0.0)).mean())


def _same_shape(found: NDArray[np.generic], targets: NDArray[np.generic]) -> None:
    if found.ndim != 2 or found.shape != targets.shape or not len(found):
        raise ValueError(f"expected one row a target and one column each, got {found.shape} and {targets.shape}")
