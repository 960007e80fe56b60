"""Linear maps for encoding against plain products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from onepeace.model.linear import DenseLinear, Int8Linear, PackedLinear, fixed_linear


def weights(outputs: int = 48, inputs: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64, 1500])
def test_packed_weights_give_the_same_for_any_number_of_rows(rows: int, gelu: bool) -> None:
    weight, bias = weights()
    x = torch.randn(rows, 96)
    expected = F.linear(x, weight, bias)
    packed = PackedLinear(weight.bfloat16(), bias.bfloat16(), gelu)
    got = packed(packed.operand(x.bfloat16()))
    torch.testing.assert_close(got.float(), F.gelu(expected) if gelu else expected, rtol=0.02, atol=0.04)


@pytest.mark.parametrize("gelu", [False, True])
def test_8_bits_are_off_by_little(gelu: bool) -> None:
    weight, bias = weights()
    x = torch.randn(200, 96)
    expected = F.gelu(F.linear(x, weight, bias)) if gelu else F.linear(x, weight, bias)
    codes = Int8Linear(weight, bias, torch.float32, gelu)
    got = codes(codes.operand(x))
    # Each of 96 products is off by half a step of 1 / 127 of the row's and of the column's largest number.
    assert (got - expected).square().mean().sqrt() < 0.02
    assert F.cosine_similarity(got, expected).min() > 0.999


def test_rows_in_8_bits_do_not_depend_on_each_other() -> None:
    weight, bias = weights()
    codes = Int8Linear(weight, bias, torch.float32)
    x = torch.randn(5, 96) * torch.tensor([1e-4, 1.0, 50.0, 1e4, 0.0])[:, None]
    together = codes(codes.operand(x))
    for row, expected in zip(x, together, strict=True):
        torch.testing.assert_close(codes(codes.operand(row[None]))[0], expected, rtol=0, atol=0)
    torch.testing.assert_close(together[4], bias)  # a row of zeros
    assert F.cosine_similarity(together[:4] - bias, F.linear(x[:4], weight)).min() > 0.999


def test_8_bit_codes_are_the_nearest_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 33)
    codes, scale = Int8Linear.operand(x)
    assert codes.dtype == torch.uint8
    assert ((codes.float() - 128) * scale - x).abs().max(dim=1).values.le(scale[:, 0] * 0.5001).all()
    assert codes.min() >= 1  # -127 to 127


def test_the_map_fits_the_type() -> None:
    weight, bias = weights()
    assert isinstance(fixed_linear(weight, bias, torch.float32), DenseLinear)
    assert isinstance(fixed_linear(weight, bias, torch.bfloat16), PackedLinear)
    assert isinstance(fixed_linear(weight, bias, torch.float32, int8=True), Int8Linear)
    assert isinstance(fixed_linear(weight.to("meta"), bias.to("meta"), torch.bfloat16), DenseLinear)
