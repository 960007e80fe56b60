"""The order in which rows are shown: a pure function of the draw's number, so that a run may go on from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np


class Order(Protocol):
    """Which row a draw shows."""

    pass_draws: int  # until every row was shown

    def __call__(self, draw: int, seed: int) -> int:
        """Return the row of a draw, counted from 0."""


class EvenOrder:
    """All rows in random order, again and again."""

    def __init__(self, members: Sequence[int]) -> None:
        self.members = members
        self.pass_draws = len(members)

    def __call__(self, draw: int, seed: int) -> int:
        """Return the row of a draw."""
        turn, place = divmod(draw, len(self.members))
        return self.members[_permutation(len(self.members), seed, turn)[place]]


class BalancedOrder:
    """Labels with n rows in proportion to n^(1 - balance), and within a label all rows in random order.

    Of each turn of as many draws as there are rows, every label has the same whole number, at random places.
    """

    def __init__(self, members: Sequence[int], labels: Sequence[str], balance: float) -> None:
        groups: dict[str, list[int]] = {}
        for member, label in zip(members, labels, strict=True):
            groups.setdefault(label, []).append(member)
        self.groups = list(groups.values())
        self.draws = len(members)
        self.quotas = tuple(shares([len(group) ** (1.0 - balance) for group in self.groups], self.draws))
        turns = max(-(-len(group) // quota) for group, quota in zip(self.groups, self.quotas, strict=True))
        self.pass_draws = turns * self.draws

    def __call__(self, draw: int, seed: int) -> int:
        """Return the row of a draw."""
        turn, place = divmod(draw, self.draws)
        labels, occurrences = _schedule(self.quotas, seed, turn)
        label = int(labels[place])
        group = self.groups[label]
        group_turn, group_place = divmod(turn * self.quotas[label] + int(occurrences[place]), len(group))
        return group[np.random.default_rng([seed, label, len(group), group_turn]).permutation(len(group))[group_place]]


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Return whole numbers in proportion to the weights that add up to `total` (largest remainder), each at least 1.

    Raises:
        ValueError: a weight is too small for one row a batch.
    """
    exact = [weight / sum(weights) * total for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    if 0 in whole:
        raise ValueError(
            f"weights {list(weights)} leave a source without a row in a batch of {total}: raise one of them"
        )
    return whole


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, count, turn]).permutation(count)


@lru_cache(maxsize=64)
def _schedule(quotas: tuple[int, ...], seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of each draw of a turn, and how often the turn has drawn that label before."""
    labels = np.random.default_rng([seed, sum(quotas), turn]).permutation(np.repeat(np.arange(len(quotas)), quotas))
    occurrences = np.empty_like(labels)
    occurrences[np.argsort(labels, kind="stable")] = np.concatenate([np.arange(quota) for quota in quotas])
    return labels, occurrences
