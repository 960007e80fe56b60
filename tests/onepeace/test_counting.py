"""Counting: the chances of numbers are those of every way to choose items, and the stated number decides the fit."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from onepeace.model.counting import MOST_COUNTED, Counted, count_chances


def every_way(chances: list[float]) -> torch.Tensor:
    found = torch.zeros(MOST_COUNTED + 2, dtype=torch.float64)
    for chosen in product((False, True), repeat=len(chances)):
        way = torch.tensor([p if yes else 1 - p for p, yes in zip(chances, chosen, strict=True)], dtype=torch.float64)
        found[min(sum(chosen), MOST_COUNTED + 1)] += way.prod()
    return found


@pytest.mark.parametrize("count", [1, 3, 9, 13])
def test_chances_of_numbers_are_those_of_every_way_to_choose(count: int) -> None:
    chances = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found = count_chances(chances[None])[0]
    torch.testing.assert_close(found, every_way(chances.tolist()))
    assert float(found.sum()) == pytest.approx(1.0)


def counted(stated: int, counts: float) -> Counted:
    """Three items are surely meant, five are not."""
    logits = torch.full((1, MOST_COUNTED + 3), -50.0)
    logits[0, stated] = 50.0
    return Counted(torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]), logits, torch.tensor([counts]))


def test_the_true_number_fits_best_and_no_number_costs_nothing() -> None:
    fits = [float(counted(stated, 50.0).fits()) for stated in range(MOST_COUNTED + 3)]
    assert max(range(MOST_COUNTED + 2), key=lambda n: fits[n]) == 3
    assert fits[3] == pytest.approx(0.0, abs=1e-5)
    assert fits[MOST_COUNTED + 2] == pytest.approx(0.0, abs=1e-5)  # "how many dogs?" states none
    assert max(fits[n] for n in range(MOST_COUNTED + 2) if n != 3) < -10
    assert float(counted(4, -50.0).fits()) == pytest.approx(0.0, abs=1e-5)  # a text that counts nothing
