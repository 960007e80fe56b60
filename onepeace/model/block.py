"""One block of the fusion encoder: attention shared by all modalities, a feed-forward expert for each.

B: batch, T: tokens, D: width, H: heads, K: width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoders.dropout import Dropout
from encoders.modality import Modality
from onepeace.model.attention import attend
from onepeace.model.config import ModelConfig
from onepeace.model.feedforward import GeGLU

Span = tuple[Modality, int]  # the tokens of a joint sequence belong to one modality after another


@dataclass(frozen=True)
class Attended:
    """What self-attention read and found, before its output projection."""

    normed: Tensor  # (B, T, D), the block's input behind its LayerNorm
    query: Tensor  # (B, H, T, K)
    key: Tensor  # (B, H, T, K)
    value: Tensor  # (B, H, T, K)
    mask: Tensor | None
    out: Tensor  # (B, H, T, K)


Mix = Callable[[Attended], Tensor]  # what else a block reads beside its own tokens: (B, H, T, K) instead of `out`


class SelfAttention(nn.Module):
    """Multi-head self-attention with the options of ONE-PEACE (SPEC: sub-LayerNorm, head scale)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.head_scale = nn.Parameter(torch.ones(config.heads)) if config.head_scale else None
        self.norm = nn.LayerNorm(width) if config.attention_norm else nn.Identity()
        self.output = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, mix: Mix | None = None) -> Tensor:
        """Return (B, T, D); `mask` comes from `attention_mask`."""
        query, key, value = (
            projection(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        out_BHTK = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        if mix is not None:
            out_BHTK = mix(Attended(x_BTD, query, key, value, mask, out_BHTK))
        if self.head_scale is not None:
            out_BHTK = out_BHTK * self.head_scale[:, None, None]
        out_BTD: Tensor = self.output(self.norm(out_BHTK.transpose(1, 2).flatten(2)))
        return out_BTD


class DropPath(nn.Module):
    """Skip a residual branch for a random share of the batch (Huang et al., 2016, arXiv:1603.09382)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the branch, zeroed for dropped samples and divided by the share of kept ones."""
        if not self.training or self.share == 0.0:
            return x_BTD
        keep_B11 = torch.rand(len(x_BTD), 1, 1, device=x_BTD.device) >= self.share
        return x_BTD * keep_B11 / (1.0 - self.share)


class Branch(nn.Module):
    """What follows each sublayer: dropout, LayerScale (Touvron et al., 2021, arXiv:2103.17239), DropPath."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.scale = (
            nn.Parameter(torch.full((config.width,), config.layer_scale)) if config.layer_scale is not None else None
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the residual stream."""
        x_BTD = self.dropout(x_BTD)
        if self.scale is not None:
            x_BTD = self.scale * x_BTD
        out: Tensor = self.drop_path(x_BTD)
        return out


class Block(nn.Module):
    """Pre-norm Transformer block (Wang et al., 2023, arXiv:2305.11172, section 2.1)."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.attention_output_norm = nn.LayerNorm(config.width) if config.attention_output_norm else nn.Identity()
        self.attention_branch = Branch(config, drop_path)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.experts = nn.ModuleDict(
            {
                m: GeGLU(config.width, config.hidden, config.hidden_norm, config.activation_dropout)
                for m in config.adapters
            }
        )
        self.feedforward_branch = Branch(config, drop_path)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, spans: Sequence[Span], mix: Mix | None = None) -> Tensor:
        """Return (B, T, D); each span of tokens goes through its modality's expert."""
        attended_BTD = self.attention_output_norm(self.attention(self.attention_norm(x_BTD), mask, mix))
        x_BTD = x_BTD + self.attention_branch(attended_BTD)
        parts = self.feedforward_norm(x_BTD).split([length for _, length in spans], dim=1)
        expert_BTD = torch.cat([self.experts[m](part) for (m, _), part in zip(spans, parts, strict=True)], dim=1)
        return x_BTD + self.feedforward_branch(expert_BTD)
