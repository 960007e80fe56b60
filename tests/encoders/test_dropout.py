from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from encoders.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_drops_the_share_and_scales_up_what_it_keeps(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = Dropout(share)(torch.ones(400, 1000, dtype=dtype)).float()
    assert (out == 0).float().mean() == pytest.approx(share, abs=0.004)  # 1 / 512 of rounding, and chance
    assert out.mean() == pytest.approx(1.0, abs=0.006)
    assert len(out.unique()) == 2
    assert (out == 0).float().mean(dim=0).std() == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.1)


def test_what_it_drops_follows_from_the_seed() -> None:
    x, dropout = torch.ones(50, 50), Dropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_its_gradient_is_its_mask() -> None:
    x = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        return Dropout(0.3)(x)

    assert gradcheck(seeded, x)


@pytest.mark.parametrize(("share", "training"), [(0.5, False), (0.0, True)])
def test_it_leaves_everything_where_there_is_nothing_to_drop(share: float, training: bool) -> None:
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(share).train(training)(x), x)


def test_a_share_close_to_all_keeps_something() -> None:
    out = Dropout(0.999)(torch.ones(200, 200))
    assert out.isfinite().all()
    assert 0 < (out != 0).float().mean() < 0.01
