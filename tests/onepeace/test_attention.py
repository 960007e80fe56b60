"""All ways to attend give the same."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.model import attention
from onepeace.model.attention import (
    AttentionByRows,
    PackedKernel,
    attend,
    attend_by_length,
    attend_in_blocks,
    attend_packed,
    attend_plainly,
    attention_mask,
)
from onepeace.model.packed_kernels import flash, flex
from onepeace.model.packing import Group, Packing


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


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_one_by_one_have_the_fused_kernels_gradients(rows: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(3, 4, 70, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.randn(rows, 4, 70, 70, dtype=torch.float64) if rows else None
    if bias is not None:
        bias[..., 60:] = -torch.inf if rows == 3 else bias[..., 60:]  # padding
        inputs.append(bias.requires_grad_())
    slope = torch.randn(3, 4, 70, 8, dtype=torch.float64)
    ours, fused = (f(*inputs[:3], bias) for f in (AttentionByRows.apply, F.scaled_dot_product_attention))
    torch.testing.assert_close(ours, fused)
    for a, b in zip(torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(fused, inputs, slope), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_padding_without_a_bias_goes_by_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WORTH", 0)
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 100, 16, requires_grad=True) for _ in range(3)]
    mask = attention_mask(None, torch.arange(100) >= torch.tensor([[100], [60]]))
    expected = F.scaled_dot_product_attention(*inputs, mask)
    training = attend(*(x.bfloat16() for x in inputs), mask)
    assert "AttentionByRows" in str(training.grad_fn)
    with torch.inference_mode():
        encoding = attend(*(x.bfloat16() for x in inputs), mask)
    for got in (training, encoding):
        assert F.cosine_similarity(got.float(), expected, dim=-1).min() > 0.999
    assert torch.autograd.grad(training.float().square().sum(), inputs)[2][1, :, 60:].abs().max() == 0


def test_training_in_bfloat16_goes_row_by_row_and_stays_near() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 200, 16, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 4, 200, 200, requires_grad=True)
    halves = attend(*(x.bfloat16() for x in inputs), bias)
    assert "AttentionByRows" in str(halves.grad_fn)
    slopes = torch.autograd.grad(halves.float().square().sum(), [*inputs, bias])
    expected = F.scaled_dot_product_attention(*inputs, bias).square().sum()
    for a, b in zip(slopes, torch.autograd.grad(expected, [*inputs, bias]), strict=True):
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def rows_of_many_lengths(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Return queries, keys, values, where their rows lie, and a bias of the longest."""
    torch.manual_seed(0)
    packing = Packing([Group(3, 2), Group(1, 5), Group(2, 9)], torch.device(device))
    query, key, value = torch.randn(3, 29, 4, 16, device=device, dtype=dtype)
    return query, key, value, packing, torch.randn(1, 4, 12, 12, device=device, dtype=dtype)


def one_by_one(query: Tensor, key: Tensor, value: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
    """Attention as it is written down, for each row alone."""
    lengths = [length for rows, length in packing.groups for _ in range(rows)]
    ends = list(accumulate(lengths))
    parts = []
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        queries = query[end - length : end] if len(query) == len(key) else query[number : number + 1]
        here = slice(end - length, end)
        logits = torch.einsum("qhk,shk->hqs", queries.double(), key[here].double()) / query.shape[-1] ** 0.5
        if bias is not None:
            logits = logits + bias[0, :, : len(queries), :length]
        parts.append(torch.einsum("hqs,shk->qhk", logits.softmax(-1), value[here].double()))
    return torch.cat(parts).float()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("kernel", [attend_packed, attend_by_length, flex])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_packed_rows_attend_to_themselves_only(kernel: PackedKernel, first_only: bool, biased: bool) -> None:
    query, key, value, packing, bias = rows_of_many_lengths()
    if first_only:
        query = query[packing.first]
    inputs = (query, key, value, packing, bias if biased else None)
    torch.testing.assert_close(kernel(*inputs), one_by_one(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("kernel", [flash, flex])
def test_kernels_of_a_gpu_give_the_same(kernel: PackedKernel, first_only: bool) -> None:
    query, key, value, packing, bias = rows_of_many_lengths("cuda", torch.bfloat16)
    if first_only:
        query = query[packing.first]
    inputs = (query, key, value, packing, bias if kernel is flex else None)
    torch.testing.assert_close(kernel(*inputs).float(), one_by_one(*inputs), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("fault", ["it raises", "it gives something else"])
def test_a_kernel_that_does_not_work_here_is_left_out_with_one_line(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "_trusted", {})
    calls = []

    def faulty(query: Tensor, key: Tensor, value: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        calls.append(fault)
        if fault == "it raises":
            raise RuntimeError("no such instruction\nand more")
        return attend_by_length(query, key, value, packing, bias).flip(0)

    inputs = rows_of_many_lengths()
    for _ in range(3):
        assert attention._tried(faulty, *inputs) is None
        assert attention._tried(attend_by_length, *inputs) is not None
    assert len(calls) == 1
    (line,) = caplog.messages
    assert line.startswith("attention by faulty does not work here and is left out: ")
