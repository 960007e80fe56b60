"""Linear maps whose weights never change: the one place that packs them and picks the kernel.

What all maps share: `operand(x)` brings rows into the form that the product reads, once for several maps of the same
rows, and calling a map on that gives (rows, outputs). M: rows, K: inputs, N: outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 127  # of int8, both ways from zero
TYPICAL_ROWS = 512  # what packed weights are made for; other numbers run as fast


class Codes(NamedTuple):
    """Rows in 8 bits: row m is (codes[m] - 128) * scale[m]."""

    codes: Tensor  # (M, K) uint8
    scale: Tensor  # (M, 1) float32


class DenseLinear(nn.Module):
    """W x + b, and GELU of that if asked, in the type of the weight."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        self.register_buffer("weight", weight_NK.contiguous())
        self.register_buffer("bias", bias_N)

    @staticmethod
    def operand(x_MK: Tensor) -> Tensor:
        """Return the rows as they are."""
        return x_MK

    def forward(self, x_MK: Tensor) -> Tensor:
        """Return (M, N)."""
        out_MN = F.linear(x_MK, self.weight, self.bias)  # type: ignore[arg-type]
        return F.gelu(out_MN) if self.gelu else out_MN


class PackedLinear(nn.Module):
    """The same with oneDNN's own order of the weight, made once, and GELU applied before results leave the registers.

    `F.linear` brings the weight into that order in every call, which takes as long as the product where rows are few.
    """

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        self.bias = bias_N
        self.activation: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_NK.contiguous(), TYPICAL_ROWS)

    operand = staticmethod(DenseLinear.operand)

    def forward(self, x_MK: Tensor) -> Tensor:
        """Return (M, N)."""
        out_MN: Tensor = torch.ops.mkldnn._linear_pointwise(x_MK, self.packed, self.bias, *self.activation)
        return out_MN


class Int8Linear(nn.Module):
    """The same with 8-bit weights and rows: a scale for each output and for each row, so that rows stay independent."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, dtype: torch.dtype, gelu: bool = False) -> None:
        super().__init__()
        self.gelu, self.dtype = gelu, dtype
        weight_NK = weight_NK.float()
        self.scale_N = weight_NK.abs().amax(dim=1).clamp(min=1e-12) / LEVELS
        codes_NK = (weight_NK / self.scale_N[:, None]).round().to(torch.int8)
        self.zeros_N = torch.zeros(len(codes_NK), dtype=torch.long)
        self.bias = torch.zeros((), dtype=dtype) if bias_N is None else bias_N.to(dtype)
        self.packed = torch.ops.onednn.qlinear_prepack(codes_NK, [TYPICAL_ROWS, codes_NK.shape[1]])

    @staticmethod
    def operand(x_MK: Tensor) -> Codes:
        """Return the rows in 8 bits."""
        scale_M1 = x_MK.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-12).div_(LEVELS)
        scaled_MK = x_MK.to(torch.float32, copy=True).div_(scale_M1)
        rounded_MK = torch.quantize_per_tensor(scaled_MK, 1.0, 128, torch.quint8)  # the fastest way to round
        bytes_MK = torch.empty(0, dtype=torch.uint8).set_(
            rounded_MK.untyped_storage(), 0, x_MK.shape, rounded_MK.stride()
        )
        return Codes(bytes_MK, scale_M1)

    def forward(self, x: Codes) -> Tensor:
        """Return (M, N)."""
        product_MN = torch.ops.onednn.qlinear_pointwise(
            x.codes, 1.0, 128, self.packed, self.scale_N, self.zeros_N, None, 1.0, 0, self.dtype, "none", [], ""
        )
        out_MN = torch.addcmul(self.bias, product_MN, x.scale.to(self.dtype))
        return F.gelu(out_MN) if self.gelu else out_MN


FixedLinear = DenseLinear | PackedLinear | Int8Linear


def fixed_linear(
    weight_NK: Tensor,
    bias_N: Tensor | None,
    dtype: torch.dtype,
    int8: bool = False,
    gelu: bool = False,
    packs: bool = True,
) -> FixedLinear:
    """Return the fastest map of these weights on their device, computing in `dtype`, or in int8 between `dtype`s."""
    if int8:
        return Int8Linear(weight_NK, bias_N, dtype, gelu)
    weight_NK = weight_NK.to(dtype)
    bias_N = None if bias_N is None else bias_N.to(dtype)
    packs = packs and weight_NK.device.type == "cpu" and dtype is torch.bfloat16
    packs = packs and torch.backends.mkldnn.is_available()
    return PackedLinear(weight_NK, bias_N, gelu) if packs else DenseLinear(weight_NK, bias_N, gelu)
