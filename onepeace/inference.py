"""A model prepared for encoding: constants folded, products fused, one number format; vectors equal the plain model's.

What is folded is exact in real arithmetic: a LayerNorm's scale and shift go into the linear map behind it, LayerScale
into the one in front, a head's scale into its values, batch normalisation into its convolution. q, k and v are one
product, and so are the two inputs of GeGLU. The last block computes the class token only: nothing else is read.

Rows of different lengths lie one behind the other without padding. S: tokens of all rows, D: width, H: heads, K: width
of a head, L: tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from encoders.adapter import Adapter
from encoders.position_bias import PositionBias1d, PositionBias2d
from encoders.tokens import Modality, TokenSequence
from onepeace.model.attention import attend
from onepeace.model.block import Block
from onepeace.model.onepeace import OnePeace

EPSILON = 1e-5  # of every LayerNorm


class Group(NamedTuple):
    """Neighbouring rows of one length."""

    rows: int
    length: int  # tokens of each


def best_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the processor multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


class FoldedLinear(nn.Module):
    """A linear map, behind a LayerNorm whose scale and shift it holds, if there is one."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.normalise = isinstance(norm, nn.LayerNorm)
        if isinstance(norm, nn.LayerNorm):
            shift = weight @ norm.bias.float()
            bias = shift if bias is None else bias + shift
            weight = weight * norm.weight.float()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def normed(self, x: Tensor) -> Tensor:
        """Return what the map is applied to."""
        return F.layer_norm(x, x.shape[-1:], eps=EPSILON) if self.normalise else x

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs)."""
        return F.linear(self.normed(x), self.weight, self.bias)


class Residual(nn.Module):
    """The last map of a branch, scaled; where a LayerNorm stands between, the scale is in that."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, linear: nn.Linear, inner: nn.Module, outer: nn.Module, scale: Tensor | None) -> None:
        super().__init__()
        weight, bias = linear.weight.float(), linear.bias.float()
        factor = torch.ones(len(weight)) if scale is None else scale.detach().float()
        if isinstance(outer, nn.LayerNorm):
            self.register_buffer("scale", outer.weight.float() * factor)
            self.register_buffer("shift", outer.bias.float() * factor)
        else:
            self.scale = self.shift = None
            weight, bias = weight * factor[:, None], bias * factor
        self.map = FoldedLinear(weight, bias, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the residual stream gains."""
        out: Tensor = self.map(x)
        return out if self.scale is None else F.layer_norm(out, out.shape[-1:], self.scale, self.shift, EPSILON)


class FusedAttention(nn.Module):
    """Self-attention with its LayerNorms, q, k and v in one product."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention = block.attention
        self.heads = attention.heads
        maps = (attention.query, attention.key, attention.value)
        weights = [linear.weight.float() for linear in maps]
        biases = [torch.zeros(len(w)) if m.bias is None else m.bias.float() for m, w in zip(maps, weights, strict=True)]
        if attention.head_scale is not None:
            factor = attention.head_scale.float().repeat_interleave(len(weights[2]) // self.heads)
            weights[2], biases[2] = weights[2] * factor[:, None], biases[2] * factor
        self.queries_keys_values = FoldedLinear(torch.cat(weights), torch.cat(biases), block.attention_norm)
        self.output = Residual(
            attention.output, attention.norm, block.attention_output_norm, block.attention_branch.scale
        )

    def forward(self, x_SD: Tensor, groups: Sequence[Group], bias: Tensor | None) -> Tensor:
        """Return the branch for every token."""
        width = x_SD.shape[1]
        parts, start = [], 0
        mixed_SE = self.queries_keys_values(x_SD)
        for rows, length in groups:
            part_SE = mixed_SE[start : start + rows * length]
            start += rows * length
            query, key, value = (self._heads(part, rows, length) for part in part_SE.split(width, dim=1))
            parts.append(_joined(attend(query, key, value, _corner(bias, length))))
        return cast(Tensor, self.output(parts[0] if len(parts) == 1 else torch.cat(parts)))

    def of_class_tokens(self, x_SD: Tensor, groups: Sequence[Group], bias: Tensor | None) -> Tensor:
        """Return the branch for each row's first token, (B, D)."""
        width = x_SD.shape[1]
        fused = self.queries_keys_values
        normed_SD = fused.normed(x_SD)
        assert fused.bias is not None
        query_BD = F.linear(normed_SD[first_tokens(groups)], fused.weight[:width], fused.bias[:width])
        mixed_SE = F.linear(normed_SD, fused.weight[width:], fused.bias[width:])
        parts, start, row = [], 0, 0
        for rows, length in groups:
            part_SE = mixed_SE[start : start + rows * length]
            key, value = (self._heads(part, rows, length) for part in part_SE.split(width, dim=1))
            query = self._heads(query_BD[row : row + rows], rows, 1)
            mask = _corner(bias, length)
            parts.append(_joined(attend(query, key, value, None if mask is None else mask[:, :, :1])))
            start, row = start + rows * length, row + rows
        return cast(Tensor, self.output(parts[0] if len(parts) == 1 else torch.cat(parts)))

    def _heads(self, part_SD: Tensor, rows: int, length: int) -> Tensor:
        return part_SD.unflatten(0, (rows, length)).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FusedExpert(nn.Module):
    """A GeGLU expert with its LayerNorms, both inputs in one product."""

    def __init__(self, block: Block, modality: str) -> None:
        super().__init__()
        expert: Any = block.experts[modality]
        self.gate_up = FoldedLinear(
            torch.cat([expert.gate.weight.float(), expert.up.weight.float()]), None, block.feedforward_norm
        )
        self.down = Residual(expert.down, expert.norm, nn.Identity(), block.feedforward_branch.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return cast(Tensor, self.down(F.gelu(gate).mul_(up)))


class EncodingModel(nn.Module):
    """The towers of a model, ready to encode. Its weights are copies; the model is not changed.

    Raises:
        ValueError: the model lets padding leak into results, which only official figures need.
    """

    def __init__(self, model: OnePeace, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if model.config.padding_leaks:
            raise ValueError("a model with padding_leaks is for comparing figures, not for encoding")
        self.dtype = dtype
        blocks = [cast(Block, block) for block in model.fusion.blocks]
        modalities = [str(modality) for modality in model.modalities]
        with torch.no_grad():
            self.adapters = nn.ModuleDict({name: prepared(model.adapters[name], dtype) for name in modalities})
            self.attention = nn.ModuleList(FusedAttention(block) for block in blocks)
            self.experts = nn.ModuleDict(
                {name: nn.ModuleList(FusedExpert(block, name) for block in blocks) for name in modalities}
            )
            for module in (self.attention, self.experts):
                module.to(dtype)
            heads: dict[str, Any] = dict(model.heads.items())
            # A product for one token a row: float32 costs nothing there.
            self.heads = nn.ModuleDict(
                {
                    name: FoldedLinear(heads[name].weight.float(), heads[name].bias.float(), model.fusion.norms[name])
                    for name in modalities
                }
            )
        self.eval()

    def embed(self, modality: Modality, *inputs: Tensor) -> Tensor:
        """Return (B, embedding_dim) unit rows in float32, for what the adapter of a modality takes."""
        adapter = cast(Adapter, self.adapters[modality])
        if not adapter.reads_float32:
            inputs = tuple(tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in inputs)
        sequence: TokenSequence = adapter(*inputs)
        x_SD, groups, order_B = packed(sequence)
        experts = cast(nn.ModuleList, self.experts[modality])
        biases = sequence.bias or (None,)
        last = len(self.attention) - 1
        for i, (attention, expert) in enumerate(zip(self.attention, experts, strict=True)):
            bias = biases[i % len(biases)]
            if i == last:
                branch_BD = cast(FusedAttention, attention).of_class_tokens(x_SD, groups, bias)
                x_SD = x_SD[first_tokens(groups)].add_(branch_BD)
            else:
                x_SD.add_(attention(x_SD, groups, bias))
            x_SD.add_(expert(x_SD))
        rows_BD = F.normalize(self.heads[modality](x_SD.float()), dim=-1)
        return rows_BD if order_B is None else torch.empty_like(rows_BD).index_copy_(0, order_B, rows_BD)


def packed(sequence: TokenSequence) -> tuple[Tensor, list[Group], Tensor | None]:
    """Return tokens without padding (S, D), their groups, and which row of the batch each was (None: in order).

    Rows come sorted by length. The tokens are new: they may be changed in place.
    """
    embeddings_BLD, padding_BL = sequence.embeddings, sequence.padding
    batch, length, _ = embeddings_BLD.shape
    if not bool(padding_BL.any()):
        return embeddings_BLD.flatten(0, 1), [Group(batch, length)], None
    lengths_B, order_B = (~padding_BL).sum(dim=1).sort(stable=True)
    values, counts = lengths_B.unique_consecutive(return_counts=True)
    groups = [Group(rows, tokens) for rows, tokens in zip(counts.tolist(), values.tolist(), strict=True)]
    return embeddings_BLD[order_B][~padding_BL[order_B]], groups, order_B


def first_tokens(groups: Sequence[Group]) -> slice | Tensor:
    """Return where the rows begin."""
    if len(groups) == 1:
        return slice(None, None, groups[0].length)
    lengths = torch.tensor([length for rows, length in groups for _ in range(rows)])
    return lengths.cumsum(0) - lengths


def prepared(adapter: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of an adapter in `dtype`: batch normalisation folded, channels last, biases gathered once."""
    from copy import deepcopy

    copy = deepcopy(adapter).eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    copy.to(dtype)
    for module in copy.modules():
        if isinstance(module, PositionBias1d | PositionBias2d):
            module.gather_once()
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copy


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Fold each batch normalisation into the convolution in front of it."""
    before: str | None = None
    for name, layer in list(layers.named_children()):
        convolution = layers._modules[before] if before is not None else None
        if type(layer) is nn.BatchNorm2d and isinstance(convolution, nn.Conv2d):
            layers._modules[cast(str, before)] = fuse_conv_bn_eval(convolution, layer)
            layers._modules[name] = nn.Identity()
        before = name


def _joined(heads_BHLK: Tensor) -> Tensor:
    return heads_BHLK.transpose(1, 2).flatten(2).flatten(0, 1)


def _corner(bias_1HTT: Tensor | None, length: int) -> Tensor | None:
    """Return the bias of a shorter sequence: the first rows and columns of a longer one's."""
    return None if bias_1HTT is None else bias_1HTT[:, :, :length, :length]
