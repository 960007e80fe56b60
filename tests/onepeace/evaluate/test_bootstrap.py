"""Bootstrap intervals: what they must hold, how wide theory says they are, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from onepeace.evaluate.bootstrap import class_mean_interval, mean_intervals


def test_an_interval_holds_its_value_and_is_as_wide_as_theory_says(rng: np.random.Generator) -> None:
    hits = rng.random((2_000, 2)) < [0.2, 0.7]
    lows, highs = mean_intervals(hits, np.arange(2_000))
    means = hits.mean(axis=0)
    assert ((lows < means) & (means < highs)).all()
    expected = 2 * 1.96 * np.sqrt(means * (1 - means) / 2_000)
    np.testing.assert_allclose(highs - lows, expected, rtol=0.1)


def test_the_same_data_give_the_same_interval_and_the_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    hits, clusters = rng.random((60, 1)) < 0.5, np.repeat(np.arange(20), 3)
    order = rng.permutation(60)
    np.testing.assert_allclose(mean_intervals(hits, clusters), mean_intervals(hits[order], clusters[order]))


@pytest.mark.parametrize(("value", "ends"), [(0.0, (0.0, 0.0)), (1.0, (1.0, 1.0))])
def test_what_never_changes_has_no_width(value: float, ends: tuple[float, float]) -> None:
    assert tuple(mean_intervals(np.full((9, 1), value), np.arange(9))[:, 0]) == ends


def test_about_95_of_100_intervals_hold_the_truth(rng: np.random.Generator) -> None:
    held = 0
    for _ in range(300):
        low, high = mean_intervals(rng.random((150, 1)) < 0.3, np.arange(150), resamples=300)[:, 0]
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.985


def test_captions_of_one_picture_are_drawn_together(rng: np.random.Generator) -> None:
    """Five captions that always agree are one piece of evidence: alone they would give a far too narrow interval."""
    held_together = held_apart = 0
    for _ in range(200):
        hits = np.repeat(rng.random((60, 1)) < 0.4, 5, axis=0)
        low, high = mean_intervals(hits, np.repeat(np.arange(60), 5), resamples=300)[:, 0]
        held_together += low <= 0.4 <= high
        low, high = mean_intervals(hits, np.arange(300), resamples=300)[:, 0]
        held_apart += low <= 0.4 <= high
    assert held_together / 200 >= 0.89
    assert held_apart / 200 <= 0.75


def test_blocks_change_nothing_but_memory(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    hits = rng.random((200, 2)) < 0.3
    whole = mean_intervals(hits, np.arange(200))
    monkeypatch.setattr("onepeace.evaluate.bootstrap.BLOCK", 200 * 7)
    np.testing.assert_allclose(mean_intervals(hits, np.arange(200)), whole)


def test_the_mean_over_classes_agrees_with_a_bootstrap_by_loops(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    right = rng.random(150) < np.array([0.9, 0.5, 0.3])[labels]
    values = []
    for _ in range(1_500):
        drawn = [rng.choice(right[labels == label], size=(labels == label).sum()) for label in range(3)]
        values.append(np.mean([own.mean() for own in drawn]))
    expected = np.percentile(values, [2.5, 97.5])
    np.testing.assert_allclose(class_mean_interval(right, labels, np.arange(150)), expected, atol=0.025)


def test_groups_of_a_class_are_drawn_together_and_a_class_of_one_group_by_its_rows(rng: np.random.Generator) -> None:
    right, labels = np.repeat(rng.random(40) < 0.5, 10), np.zeros(400, dtype=int)
    together = class_mean_interval(right, labels, np.repeat(np.arange(40), 10))
    np.testing.assert_allclose(together, mean_intervals(right[:, None], np.repeat(np.arange(40), 10))[:, 0])
    low, high = class_mean_interval(right, labels, np.zeros(400))
    assert 0 < high - low < (together[1] - together[0]) / 2
