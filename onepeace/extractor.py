"""The waveform adapter's extractor, ready to encode: convolutions as products on views, a stretch of sound at a time.

A convolution of kernel k and stride s over (N, C) is a product on the rows of s frames side by side, which need no
copy, plus one on the k - s frames behind them. A stretch stays in the cache through all layers; neighbours share the
few frames that both need, so the result is that of the whole. N: samples or frames, C: channels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRETCH = 50  # frames that come out at a time, one second


class StretchedExtractor(nn.Module):
    """Waveforms (B, 1, N) -> frames (B, C, N'), as the blocks of a `WaveformAdapter` would, in `dtype`."""

    def __init__(self, blocks: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvolutionByProducts(block, dtype) for block in blocks.children())
        self.hop, self.field = 1, 1  # samples between two frames, and those that one frame sees
        for layer in self.layers:
            self.field += (cast(int, layer.kernel) - 1) * self.hop
            self.hop *= cast(int, layer.stride)

    def forward(self, samples_B1N: Tensor) -> Tensor:
        """Return the frames."""
        count = (samples_B1N.shape[2] - self.field) // self.hop + 1
        clips = []
        for samples_1N in samples_B1N:
            parts = []
            for start in range(0, count, STRETCH):
                end = min(start + STRETCH, count) - 1
                x_NC = samples_1N[:, start * self.hop : end * self.hop + self.field].T
                for layer in self.layers:
                    x_NC = layer(x_NC)
                parts.append(x_NC)
            clips.append(torch.cat(parts))
        return torch.stack(clips).transpose(1, 2)


class ConvolutionByProducts(nn.Module):
    """Convolution, LayerNorm over channels, GELU, on (N, C)."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        convolution, norm = cast(nn.Conv1d, block.conv), cast(nn.LayerNorm, block.norm)
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        weight_OKC: Any = convolution.weight.to(dtype).permute(0, 2, 1)
        self.register_buffer("near", weight_OKC[:, : self.stride].flatten(1).T.contiguous())
        self.register_buffer("far", weight_OKC[:, self.stride :].flatten(1).T.contiguous())
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.to(dtype))
        self.register_buffer("scale", norm.weight.to(dtype))
        self.register_buffer("shift", norm.bias.to(dtype))
        self.epsilon = norm.eps

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (frames, outputs)."""
        near, far, bias = cast(Tensor, self.near), cast(Tensor, self.far), cast(Tensor | None, self.bias)
        x_NC = x_NC.contiguous()
        frames, row = (len(x_NC) - self.kernel) // self.stride + 1, self.stride * x_NC.shape[1]
        near_FR = x_NC[: frames * self.stride].view(frames, row)
        y_FO = near_FR @ near if bias is None else torch.addmm(bias, near_FR, near)
        if len(far):
            y_FO.addmm_(x_NC[self.stride :].as_strided((frames, len(far)), (row, 1)), far)
        return F.gelu(F.layer_norm(y_FO, y_FO.shape[1:], cast(Any, self.scale), cast(Any, self.shift), self.epsilon))
