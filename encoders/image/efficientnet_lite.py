"""EfficientNet-Lite0 without its classifier: the small backbone that onepeace-tiny starts from.

The network is EfficientNet (Tan and Le, 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6. timm
has it too, and a test holds the two equal; but timm brings torchvision with it, and loading a model should wait for
neither. Tensors come in the order of the published weights, so these load by position.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Stage(NamedTuple):
    """Blocks of one width; the first may halve the picture."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
FIRST_CHANNELS, FEATURES = 32, 1280


class Convolution(nn.Conv2d):
    """A convolution whose wide depthwise kernels train in float32 on a CPU."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the filtered channels."""
        if x_BCHW.device.type == "cpu" and self.groups > 1 and self.kernel_size[0] > 3 and torch.is_grad_enabled():
            # In bfloat16 their backward pass takes 8 to 50 times as long, and most of a training step.
            with torch.autocast("cpu", enabled=False):
                return super().forward(x_BCHW.float())
        return super().forward(x_BCHW)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = Convolution(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; plus the input where shapes allow (MobileNetV2, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = inputs * stage.expansion
        layers = [] if wide == inputs else [*_conv(inputs, wide, 1), nn.ReLU6()]
        layers += [*_conv(wide, wide, stage.kernel, stride, groups=wide), nn.ReLU6(), *_conv(wide, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output."""
        y_BCHW: Tensor = self.layers(x_BCHW)
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class EfficientNetLite0(nn.Module):
    """Pixels (B, 3, H, W), scaled to -1..1 -> feature maps (B, 1280, H / 32, W / 32)."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, FIRST_CHANNELS, 3, 2), nn.ReLU6())
        blocks = []
        channels = FIRST_CHANNELS
        for stage in STAGES:
            for i in range(stage.blocks):
                blocks.append(InvertedResidual(channels, stage.channels, stage, stage.stride if i == 0 else 1))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_conv(channels, FEATURES, 1), nn.ReLU6())

    def forward_features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the last feature map; the name is timm's."""
        out: Tensor = self.head(self.blocks(self.stem(pixels_BCHW)))
        return out

    def split(self, blocks: int) -> tuple[nn.Sequential, nn.Sequential]:
        """Return the network as two parts that share its weights; the second is the last `blocks` blocks and the head.

        Raises:
            ValueError: fewer than one block, or more than there are.
        """
        if not 0 < blocks <= len(self.blocks):
            raise ValueError(f"efficientnet_lite0 has {len(self.blocks)} blocks, got tuned_blocks {blocks}")
        return nn.Sequential(self.stem, self.blocks[:-blocks]), nn.Sequential(self.blocks[-blocks:], self.head)
