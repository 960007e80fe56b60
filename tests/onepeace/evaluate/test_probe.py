"""The linear probe against scikit-learn and its own optimality, nearest neighbours against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onepeace.evaluate.probe import STRENGTHS, fit_linear, held_out, linear_probe, neighbour_scores

Data = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def data(rng: np.random.Generator) -> Data:
    """90 unit rows of three classes that overlap."""
    labels = np.repeat(np.arange(3), 30)
    rows = rng.normal(size=(90, 8)) + 1.2 * np.eye(8)[labels]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_the_probe_is_scikit_learns_logistic_regression(data: Data, strength: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, labels = data
    theirs = linear_model.LogisticRegression(C=1 / (len(rows) * strength), max_iter=5_000, tol=1e-8).fit(rows, labels)
    logits = fit_linear(rows, labels, 3, strength).scores(rows)
    expected = theirs.predict_proba(rows)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(dim=1).numpy(), expected, atol=2e-3)


def test_at_the_solution_the_gradient_vanishes(data: Data) -> None:
    rows, labels = data
    probe = fit_linear(rows, labels, 3, 1e-3)
    weights = probe.weights.double().requires_grad_()
    logits = torch.from_numpy(rows).double() @ weights.T + probe.bias.double()
    loss = F.cross_entropy(logits, torch.from_numpy(labels)) + 1e-3 / 2 * weights.square().sum()
    loss.backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-4


def test_the_penalty_is_chosen_on_training_rows_that_are_held_out(data: Data) -> None:
    rows, labels = data
    groups = [str(i // 2) for i in range(90)]
    held = held_out(labels, groups)
    found = []
    for strength in STRENGTHS:
        logits = torch.from_numpy(fit_linear(rows[~held], labels[~held], 3, strength).scores(rows[held]))
        right = (logits.argmax(dim=1).numpy() == labels[held]).mean()
        found.append(
            (round(float(right), 6), -F.cross_entropy(logits, torch.from_numpy(labels[held])).item(), strength)
        )
    assert linear_probe(rows, labels, groups, 3).strength == max(found)[2]


def test_groups_stay_together_and_no_class_is_held_out_whole(rng: np.random.Generator) -> None:
    labels = np.array([0] * 20 + [1] * 4 + [2])
    groups = [str(i // 2) for i in range(20)] + ["a", "a", "b", "b"] + ["c"]
    held = held_out(labels, groups)
    for group in set(groups):
        assert len({bool(held[i]) for i in range(25) if groups[i] == group}) == 1
    assert held[labels == 0].sum() == 4  # 2 of 10 groups
    assert held[labels == 1].sum() == 2
    assert not held[labels == 2].any()


def test_a_probe_without_anything_to_hold_out_still_trains(data: Data) -> None:
    rows, labels = data
    probe = linear_probe(rows[[0, 30, 60]], labels[[0, 30, 60]], ["a", "b", "c"], 3)
    assert probe.scores(rows[[0, 30, 60]]).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("neighbours", [1, 7, 500])
def test_neighbours_vote_as_in_a_loop(data: Data, rng: np.random.Generator, neighbours: int) -> None:
    rows, labels = data
    queries = rng.normal(size=(11, 8)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores = neighbour_scores(rows, labels, 4, queries, neighbours)
    for query, found in zip(queries, scores, strict=True):
        nearest = sorted(range(90), key=lambda i: -float(rows[i] @ query))[:neighbours]
        votes = [0.0] * 4
        for i in nearest:
            votes[labels[i]] += math.exp(float(rows[i] @ query) / 0.07)
        np.testing.assert_allclose(found, votes, rtol=1e-4)
