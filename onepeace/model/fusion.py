"""The fusion encoder: token sequences of one or more modalities in, contextual features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from encoders.tokens import TokenSequence
from onepeace.model.attention import attention_mask
from onepeace.model.block import Block, Mix
from onepeace.model.config import ModelConfig


class FusionEncoder(nn.Module):
    """Blocks shared by all modalities and a final LayerNorm for each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.padding_leaks = config.padding_leaks
        rates = torch.linspace(0, config.drop_path, config.layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norms = nn.ModuleDict({m: nn.LayerNorm(config.width) for m in config.adapters})
        self.recompute = False  # blocks keep only their inputs for the backward pass (Chen et al., 2016)

    def forward(
        self, sequences: Sequence[TokenSequence], mixes: Mapping[int, Mix] = MappingProxyType({})
    ) -> list[TokenSequence]:
        """Return the sequences with their features as embeddings. Those given together attend to each other.

        Where tokens are padding the features mean nothing. `mixes` says by block what it reads besides.
        """
        x_BTD = torch.cat([s.embeddings for s in sequences], dim=1)
        padding_BT = torch.cat([s.padding for s in sequences], dim=1)
        spans = [(s.modality, s.embeddings.shape[1]) for s in sequences]
        biases = joint_bias(sequences)
        padded = bool(padding_BT.any())
        if padded:
            x_BTD = x_BTD * (~padding_BT).unsqueeze(-1)
        mask_keys = padded and not (self.padding_leaks and biases == (None,))
        masks = [attention_mask(bias, padding_BT if mask_keys else None) for bias in biases]
        for i, block in enumerate(self.blocks):
            mask = masks[i % len(masks)]
            if self.recompute and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, mask, spans, mixes.get(i), use_reentrant=False)
            else:
                x_BTD = block(x_BTD, mask, spans, mixes.get(i))
        parts = x_BTD.split([length for _, length in spans], dim=1)
        return [replace(s, embeddings=self.norms[s.modality](part)) for s, part in zip(sequences, parts, strict=True)]


def joint_bias(sequences: Sequence[TokenSequence]) -> tuple[Tensor | None, ...]:
    """Return one bias for all blocks or one a block: each modality's own, zero between modalities.

    It is (1, H, T, T), or (B, H, T, T) where a modality's depends on the row, as it does for chosen tokens.
    """
    if not any(s.bias for s in sequences):
        return (None,)
    if len(sequences) == 1:
        return sequences[0].bias
    count = max(len(s.bias) for s in sequences)
    lengths = [s.embeddings.shape[1] for s in sequences]
    rows = max(s.bias[0].shape[0] for s in sequences if s.bias)
    heads = next(s.bias[0].shape[1] for s in sequences if s.bias)
    joint = []
    for i in range(count):
        bias_RHTT = sequences[0].embeddings.new_zeros(rows, heads, sum(lengths), sum(lengths))
        start = 0
        for sequence, length in zip(sequences, lengths, strict=True):
            if sequence.bias:
                bias_RHTT[:, :, start : start + length, start : start + length] = sequence.bias[i % len(sequence.bias)]
            start += length
        joint.append(bias_RHTT)
    return tuple(joint)
