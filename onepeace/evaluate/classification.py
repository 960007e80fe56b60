"""Classification by scores, one a label: accuracy, recall of each class, and what is taken for what.

N: rows, L: labels. Zero-shot, linear probe and nearest neighbours differ in their scores alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onepeace.evaluate.bootstrap import class_mean_interval, mean_intervals
from onepeace.evaluate.measurement import Measurement
from onepeace.metrics import class_recalls, confusion_matrix, right_ranks

TOP = 5  # of the top-5 accuracy, told where there are more labels
ACCURACY, TOP_ACCURACY, CLASS_RECALL = "accuracy", f"top-{TOP} accuracy", "mean class recall"


@dataclass(frozen=True)
class Confusion:
    """A label that is taken for another."""

    true: str
    predicted: str
    count: int
    share: float  # of the true label's rows, percent


@dataclass(frozen=True)
class Classification:
    """What a classifier says of rows whose label is known."""

    source: str
    task: str  # "zero-shot image", ...
    labels: Sequence[str]  # (L,) that the classifier chooses from
    scores: NDArray[np.floating]  # (N, L)
    truth: Sequence[str]  # (N,); a label that the classifier does not know counts as wrong
    clusters: Sequence[str]  # (N,) what is drawn together in a resample
    language: str | None = None

    @cached_property
    def classes(self) -> list[str]:
        """Return the classifier's labels, then those that occur in the rows alone."""
        return [*self.labels, *sorted(set(self.truth) - set(self.labels))]

    @cached_property
    def true(self) -> NDArray[np.int64]:
        """Return the place of each row's label in `classes`."""
        place = {label: i for i, label in enumerate(self.classes)}
        return np.array([place[label] for label in self.truth])

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Return how many labels score above the right one; ties go to the earlier label."""
        return right_ranks(self.scores, self.true, np.arange(len(self.labels)))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Return how often each class (row) was taken for each (column)."""
        return confusion_matrix(self.true, self.scores.argmax(axis=1), len(self.classes))

    @cached_property
    def recalls(self) -> NDArray[np.float64]:
        """Return the percentage of each class that was told right; NaN for one without rows."""
        return class_recalls(self.confusion)

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Return accuracy, top-5 accuracy where there are more labels, and the mean over classes of their recall."""
        count = len(self.labels)
        ks = {ACCURACY: 1} | ({TOP_ACCURACY: TOP} if count > TOP else {})
        hits_NK = np.stack([self.ranks < k for k in ks.values()], axis=1)
        ends = 100.0 * mean_intervals(hits_NK, self.clusters).T
        known = np.isin(self.true, np.arange(count))
        found = [
            (metric, 100.0 * float(hits_N.mean()), interval, 100.0 * k / count * float(known.mean()))
            for (metric, k), hits_N, interval in zip(ks.items(), hits_NK.T, ends, strict=True)
        ]
        interval = 100.0 * class_mean_interval(self.ranks < 1, self.true, self.clusters)
        reached = len(np.unique(self.true[known])) / len(np.unique(self.true))
        found.append((CLASS_RECALL, float(np.nanmean(self.recalls)), interval, 100.0 / count * reached))
        return [
            Measurement(
                self.source,
                self.task,
                metric,
                value,
                len(self.truth),
                count,
                float(low),
                float(high),
                chance,
                self.language,
            )
            for metric, value, (low, high), chance in found
        ]

    def most_confused(self, limit: int = 15) -> list[Confusion]:
        """Return what is most often taken for what, the greatest count first."""
        wrong_LL = self.confusion.copy()
        np.fill_diagonal(wrong_LL, 0)
        rows_L = self.confusion.sum(axis=1)
        best = np.argsort(-wrong_LL, axis=None, kind="stable")[:limit]
        places = [(int(place) // len(wrong_LL), int(place) % len(wrong_LL)) for place in best]
        return [
            Confusion(self.classes[i], self.classes[j], int(wrong_LL[i, j]), 100.0 * float(wrong_LL[i, j] / rows_L[i]))
            for i, j in places
            if wrong_LL[i, j]
        ]
