"""Classifiers that are trained on frozen embeddings: a linear probe, and nearest neighbours.

N: training rows, Q: measured rows, D: embedding dimension, L: labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of the L2 penalty; from strong to weak, each starts from the last
HELD_OUT = 0.2  # share of a class's groups that chooses among them
NEIGHBOURS = 20
TEMPERATURE = 0.07
SEED = 20231121
BLOCK = 1 << 23  # similarities that are held at a time

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on embeddings."""

    weights: Tensor  # (L, D)
    bias: Tensor  # (L,)
    strength: float  # of the penalty that it was trained with

    def scores(self, rows_QD: Rows) -> NDArray[np.float32]:
        """Return the logits, (Q, L)."""
        out: NDArray[np.float32] = (torch.from_numpy(rows_QD) @ self.weights.T + self.bias).numpy()
        return out


def fit_linear(
    rows_ND: Rows, labels_N: NDArray[np.int64], labels: int, strength: float, start: LinearProbe | None = None
) -> LinearProbe:
    """Return the multinomial logistic regression with the least mean cross entropy + strength / 2 * |weights|^2.

    scikit-learn's `C` is 1 / (N * strength). The bias is not penalised. Solved by L-BFGS, from `start` where given.
    """
    x_ND, y_N = torch.from_numpy(rows_ND), torch.from_numpy(labels_N)
    weights_LD = torch.zeros(labels, x_ND.shape[1]) if start is None else start.weights.clone()
    bias_L = torch.zeros(labels) if start is None else start.bias.clone()
    parameters = [weights_LD.requires_grad_(), bias_L.requires_grad_()]
    solver = torch.optim.LBFGS(
        parameters, max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x_ND @ weights_LD.T + bias_L, y_N) + strength / 2 * weights_LD.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return LinearProbe(weights_LD.detach(), bias_L.detach(), strength)


def linear_probe(rows_ND: Rows, labels_N: NDArray[np.int64], groups: Sequence[str], labels: int) -> LinearProbe:
    """Train a linear probe whose penalty is chosen by a part of the training rows that is held out meanwhile.

    The rows of one group are held out together or not at all. The choice has the best accuracy, then the least cross
    entropy; where no class has two groups the middle strength is taken.
    """
    held_N = held_out(labels_N, groups)
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if held_N.any():
        truth = torch.from_numpy(labels_N[held_N])
        found: list[tuple[float, float, float]] = []
        probe: LinearProbe | None = None
        for candidate in STRENGTHS:
            probe = fit_linear(rows_ND[~held_N], labels_N[~held_N], labels, candidate, probe)
            logits = torch.from_numpy(probe.scores(rows_ND[held_N]))
            right = (logits.argmax(dim=1) == truth).float().mean().item()
            found.append((right, -F.cross_entropy(logits, truth).item(), candidate))
        strength = max(found)[2]
    return fit_linear(rows_ND, labels_N, labels, strength)


def held_out(labels_N: NDArray[np.int64], groups: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows to hold out: about a fifth of the groups of each class, never all rows of a class."""
    rng = np.random.default_rng(SEED)
    names, group_N = np.unique(np.asarray(groups), return_inverse=True)
    chosen = np.zeros(len(names), dtype=bool)
    for label in np.unique(labels_N):
        own = rng.permutation(np.unique(group_N[labels_N == label]))
        chosen[own[: max(1, round(HELD_OUT * len(own)))]] |= len(own) > 1
    held_N: NDArray[np.bool_] = chosen[group_N]
    for label in np.unique(labels_N):  # a group of several classes may have taken the last rows of one
        if held_N[labels_N == label].all():
            held_N[labels_N == label] = False
    return held_N


def neighbour_scores(
    rows_ND: Rows, labels_N: NDArray[np.int64], labels: int, queries_QD: Rows, neighbours: int = NEIGHBOURS
) -> NDArray[np.float64]:
    """Return (Q, L) votes of the nearest training rows, each weighing exp(cosine / 0.07).

    This is the weighting of Wu et al., 2018 (arXiv:1805.01978, section 3.4).
    """
    neighbours = min(neighbours, len(rows_ND))
    scores_QL = np.zeros((len(queries_QD), labels))
    step = max(1, BLOCK // len(rows_ND))
    for start in range(0, len(queries_QD), step):
        cosine_BN = queries_QD[start : start + step] @ rows_ND.T
        nearest_BK = np.argpartition(-cosine_BN, neighbours - 1, axis=1)[:, :neighbours]
        votes_BK = np.exp(np.take_along_axis(cosine_BN, nearest_BK, axis=1).astype(np.float64) / TEMPERATURE)
        places_B1 = np.arange(start, start + len(cosine_BN))[:, None]
        np.add.at(scores_QL, (places_B1, labels_N[nearest_BK]), votes_BK)
    return scores_QL
