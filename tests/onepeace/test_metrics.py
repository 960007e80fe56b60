"""Measures against figures from elsewhere and against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from onepeace.metrics import (
    accuracy,
    average_precisions,
    box_accuracy,
    box_overlaps,
    recall_at_k,
    soft_accuracy,
)


def test_recall_equals_the_official_figures(goldens: Path) -> None:
    inputs = load_file(goldens / "misc" / "metrics.safetensors")
    expected = json.loads((goldens / "misc" / "metrics.json").read_text())["recall"]
    scores = inputs["text_emb"] @ inputs["image_emb"].T
    to_image = recall_at_k(scores, inputs["text_ids"], inputs["image_ids"])
    to_text = recall_at_k(scores.T, inputs["image_ids"], inputs["text_ids"])
    assert [to_image[k] for k in (1, 5, 10)] == pytest.approx([expected[f"img_r{k}"] for k in (1, 5, 10)])
    assert [to_text[k] for k in (1, 5, 10)] == pytest.approx([expected[f"txt_r{k}"] for k in (1, 5, 10)])


def test_recall_counts_as_a_loop_would(rng: np.random.Generator) -> None:
    scores, queries, keys = rng.normal(size=(20, 30)), rng.integers(0, 6, 20), rng.integers(0, 6, 30)
    for k, value in recall_at_k(scores, queries, keys, ks=(1, 3)).items():
        found = 0
        for i in range(20):
            best = sorted(range(30), key=lambda j: -scores[i, j])[:k]
            found += any(keys[j] == queries[i] for j in best)
        assert value == pytest.approx(100 * found / 20)


@pytest.mark.parametrize(("scores", "reason"), [(np.zeros((2, 2)), "shape"), (np.full((2, 3), np.nan), "finite")])
def test_scores_that_cannot_be_ranked_are_refused(scores: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recall_at_k(scores, [0, 1], [0, 1, 2])


def test_accuracy_is_a_percentage() -> None:
    assert accuracy(["a", "b", "a", "c"], ["a", "b", "c", "c"]) == 75.0
    with pytest.raises(ValueError, match="one prediction"):
        accuracy([], [])


def test_figures_of_tasks_equal_the_official_ones(goldens: Path) -> None:
    inputs = load_file(goldens / "misc" / "metrics.safetensors")
    expected = json.loads((goldens / "misc" / "metrics.json").read_text())
    logits, targets = inputs["map_logits"], inputs["map_targets"]
    assert average_precisions(logits, targets).mean() == pytest.approx(100 * expected["map"]["map"], rel=1e-6)
    soft = soft_accuracy(logits, inputs["acc_soft_targets"])
    assert soft == pytest.approx(100 * expected["accuracy_soft"]["accuracy"], rel=1e-6)
    boxes = inputs["iou_hyps"], inputs["iou_refs"]
    assert box_accuracy(*boxes) == pytest.approx(100 * expected["iou"]["iou_acc"], rel=1e-6)


def test_average_precision_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.metrics import average_precision_score

    scores = rng.normal(size=(60, 4)).round(1)  # with ties
    targets = rng.random((60, 4)) < 0.3
    expected = [100 * average_precision_score(targets[:, i], scores[:, i]) for i in range(4)]
    np.testing.assert_allclose(average_precisions(scores, targets), expected, rtol=1e-12)
    targets[:, 2] = False
    assert np.flatnonzero(np.isnan(average_precisions(scores, targets))).tolist() == [2]


def test_overlaps_are_those_of_torchvision(rng: np.random.Generator) -> None:
    import torch
    from torchvision.ops import box_iou

    corners = rng.random((2, 50, 2, 2))
    found, targets = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)
    expected = box_iou(torch.from_numpy(found), torch.from_numpy(targets)).diagonal()
    np.testing.assert_allclose(box_overlaps(found, targets), expected, rtol=1e-12)
    assert box_accuracy(found, targets, 0.25) == pytest.approx(100 * (expected >= 0.25).double().mean().item())
    assert not box_overlaps(found[:, [2, 3, 0, 1]], targets).any()  # corners out of order


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        soft_accuracy(np.zeros((2, 3)), np.zeros((2, 4)))
