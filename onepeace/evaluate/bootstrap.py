"""Confidence intervals by the cluster bootstrap (Efron and Tibshirani, 1993, chapters 8 and 13).

N: queries, G: clusters, R: resamples, K: statistics. What belongs together, such as the captions of one picture, is
drawn together: queries of one cluster are no independent evidence. The keys that are searched stay as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

RESAMPLES = 1_000
LEVEL = 95.0  # percent
SEED = 20231121
BLOCK = 1 << 22  # drawn numbers that are held at a time


def mean_intervals(
    values_NK: NDArray[np.generic], clusters: ArrayLike, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> NDArray[np.float64]:
    """Return the lower and the upper end of the percentile interval of each column's mean, (2, K)."""
    ones_N1 = np.ones((len(values_NK), 1))
    sums_RK = resampled_sums(np.hstack([values_NK, ones_N1]), clusters, resamples)
    return _percentiles(sums_RK[:, :-1] / sums_RK[:, -1:], level)


def class_mean_interval(
    right: ArrayLike, labels: ArrayLike, clusters: ArrayLike, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> NDArray[np.float64]:
    """Return both ends of the interval of the mean over labels of the share that is right, (2,).

    Clusters are drawn within each label, so that every label stays in every resample. A label whose rows are all of one
    cluster would then never change: its rows are drawn singly, and its part of the width is a lower bound.
    """
    right_N, cluster_N = np.asarray(right, dtype=np.float64), np.asarray(clusters)
    names, label_N = np.unique(np.asarray(labels), return_inverse=True)
    means_R = np.zeros(resamples)
    for label in range(len(names)):
        own_M = label_N == label
        units = cluster_N[own_M]
        if len(np.unique(units)) == 1:
            units = np.arange(len(units))
        values_M2 = np.stack([right_N[own_M], np.ones(len(units))], axis=1)
        sums_R2 = resampled_sums(values_M2, units, resamples, stream=label)
        means_R += sums_R2[:, 0] / sums_R2[:, 1] / len(names)
    return _percentiles(means_R[:, None], level)[:, 0]


def resampled_sums(values_NK: ArrayLike, clusters: ArrayLike, resamples: int, stream: int = 0) -> NDArray[np.float64]:
    """Return the column sums of each resample, (R, K). Draws depend on the number of clusters and `stream` alone."""
    names, cluster_N = np.unique(np.asarray(clusters), return_inverse=True)
    count, rows = len(names), len(cluster_N)
    member_GN = sparse.csr_array((np.ones(rows), (cluster_N, np.arange(rows))), shape=(count, rows))
    values_GK = member_GN @ np.asarray(values_NK, dtype=np.float64)
    rng = np.random.default_rng([SEED, count, stream])
    parts = []
    step = max(1, BLOCK // count)
    for start in range(0, resamples, step):
        block = min(step, resamples - start)
        drawn_BG = rng.integers(count, size=(block, count)) + count * np.arange(block)[:, None]
        times_BG = np.bincount(drawn_BG.ravel(), minlength=block * count).reshape(block, count)
        parts.append((values_GK.T @ times_BG.T).T)
    out: NDArray[np.float64] = np.concatenate(parts)
    return out


def _percentiles(values_RK: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    outside = (100.0 - level) / 2
    out: NDArray[np.float64] = np.percentile(values_RK, [outside, 100.0 - outside], axis=0)
    return out
