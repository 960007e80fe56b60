"""Both ways to attend give the same."""

from __future__ import annotations

import pytest
import torch

from onepeace.model.attention import attend, attend_plainly, attention_mask


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_plain_products_equal_the_fused_kernel(biased: bool, padded: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8)
    padding = torch.arange(9) >= torch.tensor([[9], [5]])
    mask = attention_mask(torch.randn(1, 4, 9, 9) if biased else None, padding if padded else None)
    torch.testing.assert_close(attend_plainly(query, key, value, mask), attend(query, key, value, mask))


def test_gradients_are_those_of_the_fused_kernel() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3)]
    ours = torch.autograd.grad(attend(*inputs, None).square().sum(), inputs)
    fused = torch.nn.functional.scaled_dot_product_attention(*inputs).square().sum()
    for a, b in zip(ours, torch.autograd.grad(fused, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_stays_broadcast_without_padding() -> None:
    bias = torch.randn(1, 4, 9, 9)
    assert attention_mask(bias, None) is bias
    assert attention_mask(None, torch.zeros(3, 9, dtype=torch.bool)).shape == (3, 1, 1, 9)
