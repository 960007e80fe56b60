"""Ranks, chance and recall against sorting, counting permutations, and the figures of a validation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from encoders.modality import Modality
from onepeace.evaluate.search import Side, search, search_both_ways
from onepeace.metrics import NEVER, chance_recall, class_recalls, confusion_matrix, recall_at_k, right_ranks
from onepeace.training.data import SourceConfig
from onepeace.training.evaluation import EvaluationBatch, EvaluationConfig, Recall


def rank_by_sorting(scores: np.ndarray, query: int, keys: np.ndarray) -> int:
    order = sorted(range(len(keys)), key=lambda j: (-scores[j], j))
    return next((place for place, j in enumerate(order) if keys[j] == query), NEVER)


@pytest.mark.parametrize("block", [1, 50, 1 << 22])
def test_ranks_are_those_of_sorting_ties_too(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("onepeace.metrics.BLOCK", block)
    scores = rng.integers(0, 4, (40, 15)) / 4.0  # few values: many ties
    queries, keys = rng.integers(0, 8, 40), rng.integers(0, 7, 15)
    expected = [rank_by_sorting(row, query, keys) for row, query in zip(scores, queries, strict=True)]
    assert right_ranks(scores, queries, keys).tolist() == expected
    assert NEVER in expected
    assert recall_at_k(scores, queries, keys, ks=(100,))[100] == pytest.approx(
        100 * np.mean([rank < 15 for rank in expected])
    )


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_chance_is_the_mean_over_all_orders(k: int) -> None:
    rights = [1, 2, 0, 5]
    found = [
        np.mean([min(order[:k]) < right for order in itertools.permutations(range(5))]) for right in rights
    ]  # the first `right` of five keys are right
    assert chance_recall(rights, 5, k) == pytest.approx(100 * np.mean(found))


def sides(rng: np.random.Generator) -> tuple[Side, Side]:
    """Ten media and 25 texts of eight concepts."""
    rows = rng.normal(size=(35, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Side(rows[:10], rng.integers(0, 8, 10)), Side(rows[10:], rng.integers(0, 8, 25))


def test_both_ways_count_as_a_loop_would(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onepeace.evaluate.search.BLOCK", 30)
    media, texts = sides(rng)
    for (queries, keys), ranking in zip(((media, texts), (texts, media)), search_both_ways(media, texts), strict=True):
        scores = queries.vectors @ keys.vectors.T
        expected = [rank_by_sorting(row, query, keys.ids) for row, query in zip(scores, queries.ids, strict=True)]
        assert ranking.ranks.tolist() == expected
        assert ranking.rights.tolist() == [int((keys.ids == query).sum()) for query in queries.ids]


def test_a_validation_has_the_figures_of_an_evaluation(rng: np.random.Generator) -> None:
    media, texts = sides(rng)
    config = EvaluationConfig(name="set", modality="image", sources=[SourceConfig()])
    recall = Recall(config)
    for own, said in ((slice(0, 6), slice(0, 12)), (slice(6, 10), slice(12, 25))):  # two batches
        batch = EvaluationBatch(
            0,
            Modality.IMAGE,
            (),
            False,
            torch.zeros(1),
            torch.from_numpy(media.ids[own]),
            torch.from_numpy(texts.ids[said]),
        )
        recall.add(batch, torch.from_numpy(media.vectors[own]), torch.from_numpy(texts.vectors[said]))
    figures = recall.figures()
    assert figures["set/image_to_text_r1"] == search(media, texts).recall(1)
    assert figures["set/text_to_image_r5"] == search(texts, media).recall(5)
    assert len(figures) == 4


def test_confusions_are_counted_and_a_class_without_rows_has_no_recall() -> None:
    confusion = confusion_matrix(np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 2]]
    np.testing.assert_allclose(class_recalls(confusion), [50.0, np.nan, 200 / 3])
