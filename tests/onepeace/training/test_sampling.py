from __future__ import annotations

from collections import Counter

import pytest

from onepeace.training.sampling import BalancedOrder, EvenOrder

LABELS = ["dog"] * 60 + ["cat"] * 30 + ["owl"] * 10
MEMBERS = list(range(100, 200))  # rows are not counted from 0


def drawn(balance: float, first: int, last: int, seed: int = 5) -> list[int]:
    order = BalancedOrder(MEMBERS, LABELS, balance)
    return [order(draw, seed) for draw in range(first, last)]


def test_full_balance_shows_every_label_equally_often() -> None:
    labels = Counter(LABELS[row - 100] for row in drawn(1.0, 0, 300))
    assert set(labels.values()) <= {99, 100, 102}  # 33 or 34 of each 100
    assert sum(labels.values()) == 300


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_labels_are_drawn_as_the_exponent_says_and_rows_of_a_label_equally_often(balance: float) -> None:
    rows = Counter(drawn(balance, 0, 1000))
    sizes = Counter(LABELS)
    weights = {label: size ** (1 - balance) for label, size in sizes.items()}
    for label, size in sizes.items():
        counts = [rows[row] for row, each in zip(MEMBERS, LABELS, strict=True) if each == label]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == pytest.approx(1000 * weights[label] / sum(weights.values()), abs=10)
        assert len(counts) == size


def test_a_draw_depends_on_its_number_and_the_seed_alone() -> None:
    whole = drawn(1.0, 0, 250)
    assert drawn(1.0, 137, 250) == whole[137:]
    assert drawn(1.0, 0, 250, seed=6) != whole
    assert whole[:100] != whole[100:200]


def test_a_pass_ends_when_every_row_was_shown() -> None:
    order = BalancedOrder(MEMBERS, LABELS, 1.0)
    assert {order(draw, 1) for draw in range(order.pass_draws)} == set(MEMBERS)
    assert EvenOrder(MEMBERS).pass_draws == 100
