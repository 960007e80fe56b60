"""Both ways to attend give the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from onepeace.model import attention
from onepeace.model.attention import attend, attend_in_blocks, attend_plainly, attention_mask


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
    fused = F.scaled_dot_product_attention(*inputs).square().sum()
    for a, b in zip(ours, torch.autograd.grad(fused, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_stays_broadcast_without_padding() -> None:
    bias = torch.randn(1, 4, 9, 9)
    assert attention_mask(bias, None) is bias
    assert attention_mask(None, torch.zeros(3, 9, dtype=torch.bool)).shape == (3, 1, 1, 9)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("queries", [90, 1])
def test_blocks_of_queries_equal_the_fused_kernel(rows: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(attention, "BLOCK", 4 * 90 * 7)  # seven queries at a time, which 90 is no multiple of
    query, key, value = torch.randn(3, 3, 4, 90, 8)
    bias = torch.randn(rows, 4, queries, 90) if rows else None
    expected = F.scaled_dot_product_attention(query[:, :, :queries], key, value, bias)
    torch.testing.assert_close(attend_in_blocks(query[:, :, :queries], key, value, bias), expected)


def test_bfloat16_without_gradients_goes_in_blocks_and_stays_near() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 300, 16)
    bias = torch.randn(1, 4, 300, 300)
    with torch.inference_mode():
        got = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), bias)
    expected = F.scaled_dot_product_attention(query, key, value, bias)
    assert F.cosine_similarity(got.float(), expected, dim=-1).min() > 0.999
