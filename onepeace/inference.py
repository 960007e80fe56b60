"""A model prepared for encoding: constants folded, products fused, one number format; vectors equal the plain model's.

What is folded is exact in real arithmetic: a LayerNorm's scale and shift go into the linear map behind it, LayerScale
into the one in front, a head's scale into its values, batch normalisation into its convolution. q, k and v are one
product. The last block computes the class token only: nothing else is read.

Rows of different lengths lie one behind the other without padding (`onepeace.model.packing`). S: tokens of all rows, D:
width, H: heads, K: width of a head, Q: queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from encoders.audio import LogMelAdapter, WaveformAdapter
from encoders.image.adapter import BackboneAdapter
from encoders.image.efficientnet_lite import EfficientNetLite0
from encoders.modality import Modality
from encoders.position_bias import PositionBias1d, PositionBias2d
from encoders.tokens import TokenSequence
from onepeace.cuda_graphs import Blocks, RecordedBlocks
from onepeace.extractor import StretchedExtractor
from onepeace.model.attention import attend_packed
from onepeace.model.block import Block
from onepeace.model.linear import DenseLinear, fixed_linear
from onepeace.model.onepeace import OnePeace
from onepeace.model.packing import Group, Packing, packed

EPSILON = 1e-5  # of every LayerNorm
SHAPES = 8  # of batches that are compiled, torch's own limit; others run as they are


def best_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the processor multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


class Arithmetic(NamedTuple):
    """How a prepared model computes."""

    dtype: torch.dtype  # of everything that is not said otherwise
    int8: bool = False  # the Transformer's products
    packs: bool = True  # weights may be in an order that the compiler cannot read

    def linear(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Any:
        """Return the map of these weights, as `onepeace.model.linear` makes it."""
        return fixed_linear(weight, bias, self.dtype, self.int8, gelu, self.packs)


def behind(norm: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return a map's weight and bias with the scale and shift of the LayerNorm in front of it."""
    weight = weight.float()
    if not isinstance(norm, nn.LayerNorm):
        return weight, bias
    shift = weight @ norm.bias.float()
    return weight * norm.weight.float(), shift if bias is None else shift + bias.float()


def normed(x: Tensor, norm: bool = True) -> Tensor:
    """Return LayerNorm without scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) if norm else x


class Residual(nn.Module):
    """The last map of a branch, scaled; where a LayerNorm stands between, the scale is in that."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self, linear: nn.Linear, inner: nn.Module, outer: nn.Module, scale: Tensor | None, arithmetic: Arithmetic
    ) -> None:
        super().__init__()
        self.norm = isinstance(inner, nn.LayerNorm)
        weight, bias = behind(inner, linear.weight, linear.bias)
        assert bias is not None
        factor = torch.ones_like(bias) if scale is None else scale.float()
        if isinstance(outer, nn.LayerNorm):
            self.register_buffer("scale", (outer.weight * factor).to(arithmetic.dtype))
            self.register_buffer("shift", (outer.bias * factor).to(arithmetic.dtype))
        else:
            self.scale = self.shift = None
            weight, bias = weight * factor[:, None], bias * factor
        self.map = arithmetic.linear(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the residual stream gains."""
        out: Tensor = self.map(self.map.operand(normed(x, self.norm)))
        return out if self.scale is None else F.layer_norm(out, out.shape[-1:], self.scale, self.shift, EPSILON)


class FusedAttention(nn.Module):
    """Self-attention with its LayerNorms, q, k and v in one product; in the last block q of the class tokens only."""

    def __init__(self, block: Block, last: bool, arithmetic: Arithmetic) -> None:
        super().__init__()
        attention = block.attention
        self.heads = attention.heads
        maps = (attention.query, attention.key, attention.value)
        weights = [linear.weight.float() for linear in maps]
        biases = [
            linear.weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.float()
            for linear, weight in zip(maps, weights, strict=True)
        ]
        if attention.head_scale is not None:
            factor = attention.head_scale.float().repeat_interleave(len(weights[2]) // self.heads)
            weights[2], biases[2] = weights[2] * factor[:, None], biases[2] * factor
        parts = (slice(0, 1), slice(1, 3)) if last else (slice(0, 3),)
        self.maps = nn.ModuleList(
            arithmetic.linear(*behind(block.attention_norm, torch.cat(weights[part]), torch.cat(biases[part])))
            for part in parts
        )
        self.output = Residual(
            attention.output, attention.norm, block.attention_output_norm, block.attention_branch.scale, arithmetic
        )

    def forward(self, x_SD: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Return the branch for every token (S, D), in the last block for each row's first one (B, D)."""
        normed_SD = normed(x_SD)
        *queries, rest = cast(Any, self.maps)
        mixed = rest(rest.operand(normed_SD))
        read = list(mixed.split(x_SD.shape[1], 1))
        for query in queries:
            read.insert(0, query(query.operand(normed_SD[packing.first])))
        query_QHK, key_SHK, value_SHK = (part.unflatten(1, (self.heads, -1)) for part in read)
        out_QHK = attend_packed(query_QHK, key_SHK, value_SHK, packing, bias)
        return cast(Tensor, self.output(out_QHK.flatten(1)))


class FusedExpert(nn.Module):
    """A GeGLU expert with its LayerNorms.

    Gate and up stay two products of the same operand: GELU is then part of the first, which saves more than one wide
    product would.
    """

    def __init__(self, block: Block, modality: str, arithmetic: Arithmetic) -> None:
        super().__init__()
        expert: Any = block.experts[modality]
        self.gate = arithmetic.linear(*behind(block.feedforward_norm, expert.gate.weight, None), gelu=True)
        self.up = arithmetic.linear(*behind(block.feedforward_norm, expert.up.weight, None))
        self.down = Residual(expert.down, expert.norm, nn.Identity(), block.feedforward_branch.scale, arithmetic)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch."""
        operand = self.gate.operand(normed(x))
        return cast(Tensor, self.down(self.gate(operand).mul_(self.up(operand))))


class EncodingModel(nn.Module):
    """The towers of a model, ready to encode on the device where the model is. Its weights are copies.

    `dtype` int8 stands for 8-bit products in the Transformer, and `best_dtype` elsewhere. With `compiled` the blocks go
    through torch.compile, for batches of one length and for at most `SHAPES` shapes: rows are filled up to a power of
    two.

    Raises:
        ValueError: the model lets padding leak into results, which only official figures need; or int8 was to be
            compiled.
    """

    def __init__(self, model: OnePeace, dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        super().__init__()
        if compiled and dtype is torch.int8:
            raise ValueError("int8 products cannot be compiled: choose bfloat16, or leave compile at False")
        if model.config.padding_leaks:
            raise ValueError("a model with padding_leaks is for comparing figures, not for encoding")
        self.config = model.config
        self.device = model.logit_scale.log.device
        self.logit_scale = model.logit_scale().item()
        int8 = dtype is torch.int8
        self.arithmetic = Arithmetic(best_dtype(self.device) if int8 else dtype, int8, packs=not compiled)
        blocks = [cast(Block, block) for block in model.fusion.blocks]
        names = [str(modality) for modality in model.modalities]
        with torch.no_grad():
            self.adapters = nn.ModuleDict(
                {name: prepared(model.adapters[name], self.arithmetic.dtype) for name in names}
            )
            self.attention = nn.ModuleList(
                FusedAttention(block, block is blocks[-1], self.arithmetic) for block in blocks
            )
            self.experts = nn.ModuleDict(
                {name: nn.ModuleList(FusedExpert(block, name, self.arithmetic) for block in blocks) for name in names}
            )
            heads: dict[str, Any] = dict(model.heads.items())
            # A product for one token a row: float32 costs nothing there.
            self.heads = nn.ModuleDict(
                {
                    name: DenseLinear(*behind(model.fusion.norms[name], heads[name].weight, heads[name].bias))
                    for name in names
                }
            )
        self.eval()
        self._compiled: Any = torch.compile(self._blocks, dynamic=False) if compiled else None
        self._shapes: set[tuple[Modality, Group]] = set()  # that are compiled
        self._recorded = RecordedBlocks(self._blocks) if self.device.type == "cuda" and not compiled else None
        self.reentrant = self.device.type == "cpu" and not compiled  # keeps nothing between calls

    def transformer(self) -> Iterator[nn.Module]:
        """Yield the modules of all blocks."""
        yield from self.attention.modules()
        yield from self.experts.modules()

    def embed(self, modality: Modality, *inputs: Tensor) -> Tensor:
        """Return (B, embedding_dim) unit rows in float32, for what the adapter of a modality takes."""
        adapter = self.adapters[modality]
        if not any(isinstance(module, InFloat32) for module in adapter.modules()):
            dtype = self.arithmetic.dtype
            inputs = tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs)
        sequence: TokenSequence = adapter(*inputs)
        x_SD, packing, order_B = packed(sequence)
        rows = packing.rows
        run: Blocks = self._blocks
        if self._recorded is not None and self._recorded.fits(packing):
            run = self._recorded
        elif self._compiled is not None and len(packing.groups) == 1:
            full = Group(1 << (rows - 1).bit_length(), packing.longest)
            if (modality, full) in self._shapes or len(self._shapes) < SHAPES:
                self._shapes.add((modality, full))
                x_SD = torch.cat([x_SD, x_SD[: full.length].repeat(full.rows - rows, 1)])
                run, packing = self._compiled, Packing([full], packing.device)
        x_BD = run(modality, x_SD, packing, sequence.bias or (None,))[:rows]
        rows_BD = F.normalize(self.heads[modality](normed(x_BD.float())), dim=-1)
        return rows_BD if order_B is None else torch.empty_like(rows_BD).index_copy_(0, order_B, rows_BD)

    def _blocks(self, modality: Modality, x_SD: Tensor, packing: Packing, biases: Sequence[Tensor | None]) -> Tensor:
        """Return the rows' class tokens behind all blocks, (B, D). Changes `x_SD`."""
        experts = cast(nn.ModuleList, self.experts[modality])
        for i, (attention, expert) in enumerate(zip(self.attention, experts, strict=True)):
            branch = attention(x_SD, packing, biases[i % len(biases)])
            if len(branch) != len(x_SD):  # the last block's
                x_SD = x_SD[packing.first]
            x_SD = x_SD.add_(branch)
            x_SD.add_(expert(x_SD))
        return x_SD


class InFloat32(nn.Module):
    """A part that runs in float32 between others that do not."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.part, self.dtype = part, dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the part returns, in the type of the others."""
        out: Tensor = self.part(*(tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs))
        return out.to(self.dtype)


def prepared(adapter: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of an adapter in `dtype`: batch normalisation folded, channels last, biases gathered once.

    What would lose most by fewer digits stays in float32: a picture network's first, narrow blocks, and the sound
    network, which gains little by anything else.
    """
    copy: Any = deepcopy(adapter).eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    if dtype is not torch.float32:
        owner: Any = None
        name = ""
        if isinstance(copy, LogMelAdapter):
            owner, name = copy, "backbone"
        elif isinstance(copy, BackboneAdapter) and isinstance(copy.backbone, EfficientNetLite0):
            owner, name = copy.backbone, "stem"
            owner.stem, owner.blocks = nn.Sequential(owner.stem, owner.blocks[:2]), owner.blocks[2:]
        exact = deepcopy(getattr(owner, name)) if owner else None
        for module in copy.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.data = rounded_in_sum(module.weight.data, dtype)
        copy.to(dtype)
        if exact is not None:
            setattr(owner, name, InFloat32(exact, dtype))
    if isinstance(copy, WaveformAdapter):
        copy.extractor = StretchedExtractor(copy.extractor, dtype)
    for module in copy.modules():
        if isinstance(module, PositionBias1d | PositionBias2d):
            module.gather_once()
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return cast(nn.Module, copy)


def rounded_in_sum(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a depthwise convolution's weight rounded to `dtype` so that each kernel keeps its sum.

    Every weight takes over what the larger one before it lost. Pictures are mostly smooth, so a kernel's sum is its
    gain; rounded one by one, weights make channels brighter or darker everywhere.
    """
    order = weight.flatten(1).abs().argsort(dim=1, descending=True)
    exact = weight.flatten(1).gather(1, order)
    rounded = torch.empty_like(exact)
    left = torch.zeros(len(exact), device=exact.device)
    for i, column in enumerate(exact.T):
        rounded[:, i] = (column + left).to(dtype)
        left = column + left - rounded[:, i]
    return torch.empty_like(exact).scatter_(1, order, rounded).view_as(weight)


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Fold each batch normalisation into the convolution in front of it."""
    before: str | None = None
    for name, layer in list(layers.named_children()):
        convolution = layers._modules[before] if before is not None else None
        if type(layer) is nn.BatchNorm2d and isinstance(convolution, nn.Conv2d):
            layers._modules[cast(str, before)] = fuse_conv_bn_eval(convolution, layer)
            layers._modules[name] = nn.Identity()
        before = name
