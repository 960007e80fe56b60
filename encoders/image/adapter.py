"""Pictures: pixels -> TokenSequence, from patches (the official model) or from a timm backbone's feature map."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import Adapter, AdapterConfig, Shape, trunc_normal
from encoders.image.efficientnet_lite import EfficientNetLite0
from encoders.image.preprocess import ImagePreprocess, ImagePreprocessor
from encoders.modality import Modality
from encoders.place import WAVES, middles, waves
from encoders.position_bias import PositionBias2d
from encoders.tokens import TokenSequence

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PATCH = 16  # pixels a side, of every stem


@dataclass(frozen=True, kw_only=True)
class ImageConfig(AdapterConfig):
    """What all picture adapters share: the size of the position tables."""

    preprocess: ImagePreprocess = ImagePreprocess()
    position_grid: int = 16  # absolute positions are a table for this many patches a side
    bias_grid: int = 16  # so is the relative bias

    def preprocessor(self, tokenizer: Tokenizer | None) -> ImagePreprocessor:
        """Return what makes this adapter's tensors from raw input."""
        return ImagePreprocessor(self.preprocess)


@dataclass(frozen=True, kw_only=True)
class PatchConfig(ImageConfig):
    """The official adapter: hMLP stem (Touvron et al., 2022, arXiv:2203.09795) or one convolution."""

    kind: Literal["hmlp", "patch"] = "hmlp"
    second_type_embedding: bool = False  # a further vector for the second picture of a pair

    def build(self, shape: Shape) -> PatchAdapter:
        """Return the adapter of this config."""
        return PatchAdapter(self, shape)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(ImageConfig):
    """What backbone adapters share: the last feature map becomes the tokens."""

    frozen: bool = True  # the backbone keeps its weights and its normalisation statistics
    tuned_blocks: int = 0  # last blocks of a frozen backbone that train all the same, with its head
    position_grid: int = 7
    bias_grid: int = 7
    token_dropout: float = 0.0  # share of feature tokens hidden in training
    detail: int = 0  # squares a side of a token's place, whose mean colours it is told, and where; 0: none. For tasks

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        if self.detail < 0:
            raise ValueError(f"detail is a number of squares a side, or 0, got {self.detail}")
        if self.tuned_blocks < 0 or (self.tuned_blocks and not self.frozen):
            raise ValueError("tuned_blocks is a number of blocks of a frozen backbone; 0 tunes none of it")

    def backbone_module(self) -> nn.Module:
        """Return the backbone: `forward_features` and `num_features`, as timm names them."""
        raise NotImplementedError

    def build(self, shape: Shape) -> BackboneAdapter:
        """Return the adapter of this config."""
        return BackboneAdapter(self, shape)


@dataclass(frozen=True, kw_only=True)
class TimmConfig(BackboneConfig):
    """Any timm backbone."""

    kind: Literal["timm"] = "timm"
    backbone: str = "efficientnet_lite0"

    def backbone_module(self) -> nn.Module:
        """Return the timm model of that name, without its classifier."""
        import timm

        model: nn.Module = timm.create_model(self.backbone, pretrained=False, num_classes=0)
        return model


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteConfig(BackboneConfig):
    """EfficientNet-Lite0, without a need for timm."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"

    def backbone_module(self) -> nn.Module:
        """Return the network."""
        return EfficientNetLite0()


class GridAdapter(Adapter):
    """An adapter whose content is a grid: absolute positions and 2-D bias, resized to the grid at hand."""

    modality: ClassVar[Modality] = Modality.IMAGE

    def __init__(self, config: ImageConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.position_embedding = nn.Parameter(trunc_normal(torch.empty(config.position_grid**2 + 1, shape.width)))
        self.bias = PositionBias2d(config.bias_grid, shape.heads, shape.bias_tables) if config.attention_bias else None

    def position_bias(self, length: int) -> tuple[Tensor, ...]:
        """Return what a square picture of so many tokens, class token included, adds to the attention."""
        side = math.isqrt(length - 1)
        return () if self.bias is None else self.bias(side, side)

    def assemble_grid(self, content_BDHW: Tensor, class_content_BD: Tensor | None = None) -> TokenSequence:
        """Return the tokens of a content grid, row by row, the class token first."""
        batch, _, height, width = content_BDHW.shape
        padding_BL = torch.zeros(batch, height * width + 1, dtype=torch.bool, device=content_BDHW.device)
        return self.assemble(
            content_BDHW.flatten(2).transpose(1, 2),
            resize_positions(self.position_embedding, height, width),
            padding_BL,
            self.bias(height, width) if self.bias is not None else (),
            class_content_BD,
        )


class PatchAdapter(GridAdapter):
    """Pixels (B, 3, H, W), sides multiples of 16 -> TokenSequence of HW / 256 + 1 tokens."""

    def __init__(self, config: PatchConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.stem = hmlp_stem(shape.width) if config.kind == "hmlp" else patch_stem(shape.width)
        self.second_type_embedding = nn.Parameter(torch.zeros(shape.width)) if config.second_type_embedding else None

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the patches' contents, (B, D, H / 16, W / 16).

        Raises:
            ValueError: a side is not a multiple of 16.
        """
        height, width = pixels_BCHW.shape[2:]
        if height % PATCH or width % PATCH or not height or not width:
            raise ValueError(f"picture sides must be multiples of {PATCH} pixels, got {height} x {width}")
        content_BDHW: Tensor = self.stem(pixels_BCHW)
        return content_BDHW

    def from_features(self, content_BDHW: Tensor, second: bool = False) -> TokenSequence:
        """Return the tokens of pictures; `second` marks the second picture of a pair."""
        sequence = self.assemble_grid(content_BDHW)
        if second and self.second_type_embedding is not None:
            embeddings = sequence.embeddings + self.second_type_embedding
            return TokenSequence(self.modality, embeddings, sequence.padding, sequence.bias)
        return sequence


class BackboneAdapter(GridAdapter):
    """Pixels (B, 3, H, W) -> feature map -> TokenSequence, the pooled feature added to the class token."""

    backbone: Any  # whichever network: timm's have no common type

    def __init__(self, config: BackboneConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.frozen = config.frozen
        self.token_dropout = config.token_dropout
        self.backbone = config.backbone_module()
        self.backbone.requires_grad_(not config.frozen)
        self.tuned_blocks = config.tuned_blocks
        if config.tuned_blocks:
            if not hasattr(self.backbone, "split"):
                raise ValueError(f"adapters.image: a backbone of kind {config.kind} has no tuned_blocks")
            self.backbone.split(config.tuned_blocks)[1].requires_grad_(True)
        features = self.backbone.num_features
        self.projection = nn.Sequential(
            OrderedDict(norm=nn.LayerNorm(features), linear=nn.Linear(features, shape.width))
        )
        self.class_projection = nn.Sequential(
            OrderedDict(norm=nn.LayerNorm(features), linear=nn.Linear(features, shape.width))
        )

        if config.detail:
            self.squares = config.detail
            self.detail = nn.Linear(3 * config.detail**2 + 2 * WAVES, shape.width, bias=False)

    def _details(self, sequence: TokenSequence, *inputs: Tensor) -> Tensor:
        """Return the mean colours of the squares of each token's place, and where it is: (B, L, 3 squares^2 + 2 WAVES).

        Colours lie as a pixel shuffle has them (Shi et al., 2016, arXiv:1609.05158). The class token has zeros.
        """
        (pixels_BCHW,) = inputs
        tokens, (high, wide) = sequence.embeddings.shape[1] - 1, pixels_BCHW.shape[2:]
        height = round((tokens * high / wide) ** 0.5)
        width = tokens // height
        grid = height * self.squares, width * self.squares
        colours_BEHW = F.pixel_unshuffle(F.adaptive_avg_pool2d(pixels_BCHW, grid), self.squares)
        down, across = (waves(middles(count, pixels_BCHW.device)) for count in (height, width))
        places_LE = torch.cat([down.repeat_interleave(width, 0), across.repeat(height, 1)], dim=1).to(pixels_BCHW.dtype)
        colours_BLE = colours_BEHW.flatten(2).transpose(1, 2)
        return F.pad(torch.cat([colours_BLE, places_LE.expand(len(colours_BLE), -1, -1)], dim=2), (0, 0, 1, 0))

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but leave a frozen backbone's normalisation statistics alone."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @property
    def frozen_part(self) -> nn.Module:
        """Return what never changes in training, so that its output may be kept."""
        part: nn.Module = self.backbone.split(self.tuned_blocks)[0] if self.tuned_blocks else self.backbone
        return part

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the feature map of the frozen part, (B, h, w, F); where nothing is tuned, the backbone's last."""
        # Convolutions on a CPU run twice as fast with the channels last.
        pixels_BCHW = pixels_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.tuned_blocks:
                return self.frozen_part(pixels_BCHW).permute(0, 2, 3, 1)
            feature_map = self.backbone.forward_features(pixels_BCHW)
        if feature_map.ndim == 3:  # a ViT: (B, prefix + hw, F)
            feature_map = feature_map[:, self.backbone.num_prefix_tokens :]
            side = round(feature_map.shape[1] ** 0.5)
            return feature_map.unflatten(1, (side, side))
        if feature_map.shape[-1] == self.backbone.num_features:  # (B, h, w, F) already, as Swin has it
            return feature_map
        return feature_map.permute(0, 2, 3, 1)

    def from_features(self, features_BHWF: Tensor) -> TokenSequence:
        """Return the tokens of a feature map: what training on cached features calls."""
        if self.tuned_blocks:
            tail = self.backbone.split(self.tuned_blocks)[1]
            features_BHWF = tail(features_BHWF.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        pooled_BF = features_BHWF.mean((1, 2))
        return self._drop_tokens(
            self.assemble_grid(self.projection(features_BHWF).permute(0, 3, 1, 2), self.class_projection(pooled_BF))
        )

    def _drop_tokens(self, sequence: TokenSequence) -> TokenSequence:
        if not self.training or self.token_dropout == 0.0:
            return sequence
        dropped_BL = torch.rand(sequence.padding.shape, device=sequence.padding.device) < self.token_dropout
        dropped_BL[:, 0] = False
        return TokenSequence(sequence.modality, sequence.embeddings, sequence.padding | dropped_BL, sequence.bias)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised picture, same shape."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def hmlp_stem(width: int) -> nn.Sequential:
    """Patches of 16 x 16 in three steps of 4, 2 and 2 pixels, so that patches never mix."""
    quarter = width // 4
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, quarter, kernel_size=4, stride=4),
            norm1=ChannelNorm(quarter),
            gelu1=nn.GELU(),
            conv2=nn.Conv2d(quarter, quarter, kernel_size=2, stride=2),
            norm2=ChannelNorm(quarter),
            gelu2=nn.GELU(),
            conv3=nn.Conv2d(quarter, width, kernel_size=2, stride=2),
        )
    )


def patch_stem(width: int) -> nn.Sequential:
    """Patches of 16 x 16 in one step."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH, bias=False)))


def resize_positions(table_LD: Tensor, height: int, width: int) -> Tensor:
    """Return absolute positions for a `height` x `width` grid: bicubic in float32, the class row untouched."""
    grid = round((len(table_LD) - 1) ** 0.5)
    if (height, width) == (grid, grid):
        return table_LD
    positions_1DHW = table_LD[1:].float().T.reshape(1, -1, grid, grid)
    resized_1DHW = F.interpolate(positions_1DHW, (height, width), mode="bicubic", align_corners=False)
    return torch.cat([table_LD[:1], resized_1DHW.flatten(2)[0].T.to(table_LD.dtype)])


KINDS = {"hmlp": PatchConfig, "patch": PatchConfig, "timm": TimmConfig, "efficientnet_lite0": EfficientNetLiteConfig}
