"""Measures of finding any number of things, against figures counted by hand and all pairings that there are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from later import Later

from onepeace.metrics import box_overlaps
from onepeace.set_metrics import absence, f1_at_overlap, pairs, pairwise_overlaps, spans_within

ops = Later("torchvision.ops")

UNIT = [0.0, 0.0, 1.0, 1.0]


def test_overlaps_are_those_of_torchvision_and_of_single_pairs(rng: np.random.Generator) -> None:
    low, size = rng.random((2, 7, 2))
    boxes = np.concatenate([low, low + size], axis=1)
    expected = ops.box_iou(torch.from_numpy(boxes[:4]), torch.from_numpy(boxes[4:]))
    np.testing.assert_allclose(pairwise_overlaps(boxes[:4], boxes[4:]), expected)
    np.testing.assert_allclose(pairwise_overlaps(boxes[:3], boxes[4:]).diagonal(), box_overlaps(boxes[:3], boxes[4:]))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_pairs_are_as_many_as_any_pairing_gives(share: float, rng: np.random.Generator) -> None:
    for _ in range(20):
        fits = rng.random((3, 5)) < share
        most = max(sum(fits[row, column] for row, column in enumerate(order)) for order in permutations(range(5), 3))
        assert pairs(fits) == pairs(fits.T) == most


def test_f1_counts_each_thing_and_each_place_once() -> None:
    shifted = [0.0, 0.0, 1.0, 1.9]
    found = [[UNIT, shifted], [UNIT], []]
    wanted = [[UNIT], [UNIT, [5.0, 5.0, 6.0, 6.0]], [UNIT]]
    assert f1_at_overlap(found, wanted) == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert f1_at_overlap(found, wanted, threshold=1.01) == 0.0
    assert f1_at_overlap([[]], [[]]) == 100.0


def test_spans_count_where_both_ends_are_near() -> None:
    found = [[[0.55, 2.0], [0.6, 1.4]], [[3.0, 5.0]]]
    wanted = [[[0.0, 1.5]], [[3.0, 4.0], [8.0, 9.0]]]
    assert spans_within(found, wanted) == 0.0
    assert spans_within(found, wanted, seconds=0.6) == pytest.approx(100 / 3)
    assert spans_within(found, wanted, seconds=1.0) == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="no row has a span"):
        spans_within([[]], [[]])


def test_saying_that_nothing_is_there() -> None:
    precision, recall = absence([[], [], [], [UNIT]], [[], [], [UNIT], []])
    assert (precision, recall) == pytest.approx((200 / 3, 200 / 3))
    assert np.isnan(absence([[UNIT]], [[UNIT]])).all()
    with pytest.raises(ValueError, match="got 1 and 0"):
        absence([[]], [])
