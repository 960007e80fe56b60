"""Measures against figures from elsewhere and against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from onepeace.metrics import accuracy, recall_at_k


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
