"""Attention: the one place that builds the mask and picks the kernel.

B: batch, H: heads, T: tokens, K: width of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.model.packed_kernels import flash, flex
from onepeace.model.packing import Packing

logger = logging.getLogger(__name__)

BLOCK = 2**21  # logits that are computed at a time on a CPU: with them its cache is full
WORTH = 2**17  # logits of a sequence from which on it is worth calls of its own; below, these are most of the time


AGREEING = 0.999  # cosine of a kernel's first result with the plain one, from which on it is trusted
PackedKernel = Callable[[Tensor, Tensor, Tensor, Packing, Tensor | None], Tensor]
_trusted: dict[PackedKernel, bool] = {}  # kernels of a GPU that ran before: whether they may again


def attention_mask(bias_1HTT: Tensor | None, padding_BT: Tensor | None) -> Tensor | None:
    """Return what is added to the attention logits: the bias, and minus infinity in padded key columns.

    A bias without padding stays broadcast over the batch, (1, H, T, T); with padding the mask is (B, H, T, T), and
    padding without a bias gives a boolean (B, 1, 1, T), True where a key may be read.
    """
    if padding_BT is None:
        return bias_1HTT
    padding_B11T = padding_BT[:, None, None, :]
    return ~padding_B11T if bias_1HTT is None else bias_1HTT.masked_fill(padding_B11T, -torch.inf)


def attend(
    query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(q k^T / sqrt(K) + mask) v, (B, H, T, K) (Vaswani et al., 2017, eq. 1)."""
    on_cpu = query_BHTK.device.type == "cpu"
    by_rows = (
        on_cpu
        and not torch.compiler.is_compiling()
        and query_BHTK.dtype is torch.bfloat16
        and not dropout
        and query_BHTK.shape[1] * query_BHTK.shape[2] * key_BHTK.shape[2] >= WORTH
    )
    if by_rows and mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query_BHTK.dtype).masked_fill_(~mask, -torch.inf)
    if torch.is_grad_enabled() and query_BHTK.requires_grad and on_cpu:
        # The fused CPU kernel's backward pass is several times slower than products at training's short lengths.
        if by_rows:
            return cast(Tensor, AttentionByRows.apply(query_BHTK, key_BHTK, value_BHTK, mask))  # type: ignore[no-untyped-call]
        return attend_plainly(query_BHTK, key_BHTK, value_BHTK, mask, dropout)
    if by_rows:
        return attend_in_blocks(query_BHTK, key_BHTK, value_BHTK, mask)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query_BHTK.dtype)
    return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, mask, dropout)


def attend_packed(
    query_QHK: Tensor, key_SHK: Tensor, value_SHK: Tensor, packing: Packing, bias: Tensor | None
) -> Tensor:
    """Return what `attend` does within each of the rows that lie one behind the other, (Q, H, K).

    Queries are of all tokens, or of each row's first one. The bias (1, H, T, T) is of the longest row; a shorter one's
    is a corner of it. S: tokens of all rows, Q: queries.
    """
    if query_QHK.is_cuda and len(packing.groups) > 1:
        halves = query_QHK.dtype in (torch.bfloat16, torch.float16)
        for kernel in (flash, flex) if bias is None and halves else (flex,):
            if (out := _tried(kernel, query_QHK, key_SHK, value_SHK, packing, bias)) is not None:
                return out
    return attend_by_length(query_QHK, key_SHK, value_SHK, packing, bias)


def attend_by_length(
    query_QHK: Tensor, key_SHK: Tensor, value_SHK: Tensor, packing: Packing, bias: Tensor | None
) -> Tensor:
    """Return what `attend_packed` does, by a call for each group of rows of one length."""
    everywhere = len(query_QHK) == len(key_SHK)
    parts, start, row = [], 0, 0
    for rows, length in packing.groups:
        here, queries = slice(start, start + rows * length), slice(row, row + rows)
        read = [query_QHK[here if everywhere else queries], key_SHK[here], value_SHK[here]]
        mask = None if bias is None else bias[:, :, : length if everywhere else 1, :length]
        query_BHTK, key_BHTK, value_BHTK = (part.unflatten(0, (rows, -1)).transpose(1, 2) for part in read)
        out_BHTK = attend(query_BHTK, key_BHTK, value_BHTK, mask)
        parts.append(out_BHTK.transpose(1, 2).flatten(0, 1))
        start, row = start + rows * length, row + rows
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tried(kernel: PackedKernel, *inputs: Any) -> Tensor | None:
    """Return a kernel's result; None where it cannot run, or gave something else the first time.

    What a compiler or a driver makes of a kernel differs from machine to machine, so the first result is compared.
    """
    if not _trusted.get(kernel, True):
        return None
    try:
        out = kernel(*inputs)
        if kernel not in _trusted:
            expected = attend_by_length(*inputs)
            cosine = float(F.cosine_similarity(out.float(), expected.float(), dim=-1).min())
            if not cosine > AGREEING:
                raise RuntimeError(f"its result differs from the plain one: cosine {cosine:.4f}")
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError, TypeError, AttributeError, AssertionError) as error:
        _trusted[kernel] = False
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("attention by %s does not work here and is left out: %s", kernel.__name__, reason)
        return None
    _trusted[kernel] = True
    return out


def attend_plainly(
    query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Return what `attend` does, as products of matrices with the softmax in float32."""
    logits_BHTT = (query_BHTK * query_BHTK.shape[-1] ** -0.5) @ key_BHTK.transpose(-1, -2)
    if mask is not None:
        mask = mask if mask.dtype == torch.bool else mask.to(logits_BHTT.dtype)
        logits_BHTT = logits_BHTT.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits_BHTT + mask
    weights_BHTT = logits_BHTT.softmax(dim=-1, dtype=torch.float32).to(value_BHTK.dtype)
    return F.dropout(weights_BHTT, dropout) @ value_BHTK


def attend_in_blocks(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, bias: Tensor | None) -> Tensor:
    """Return what `attend` does, by products of matrices for one sequence and some of its queries at a time.

    In bfloat16 on a CPU this takes two thirds of the time of the fused kernel. Logits are kept in bfloat16.
    """
    _, heads, keys, _ = key_BHTK.shape
    bias = None if bias is None else bias.to(query_BHTK.dtype)
    step = max(1, BLOCK // (heads * keys))
    out_BTHK = value_BHTK.new_empty(*query_BHTK.transpose(1, 2).shape[:3], value_BHTK.shape[-1])
    for row, out_THK in enumerate(out_BTHK):
        key_HTK, value_HTK = key_BHTK[row], value_BHTK[row]
        bias_HTT = None if bias is None else bias[row % len(bias)]
        for start in range(0, len(out_THK), step):
            query_HTK = query_BHTK[row, :, start : start + step]
            part_HTT = bias_HTT if bias_HTT is None or bias_HTT.shape[1] == 1 else bias_HTT[:, start : start + step]
            logits_HTT = _logits(query_HTK, key_HTK, part_HTT)
            mixed_HTK = torch.bmm(logits_HTT.softmax(dim=-1), value_HTK)
            out_THK[start : start + step] = mixed_HTK.transpose(0, 1)
    return out_BTHK.transpose(1, 2)


class AttentionByRows(torch.autograd.Function):
    """`attend` for training: one sequence at a time, forwards and backwards, so that its logits stay in the cache.

    Weights are kept for the backward pass in the queries' type. B: batch, H: heads, T: tokens, K: width of a head.
    """

    @staticmethod
    def forward(ctx: Any, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor, bias: Tensor | None) -> Tensor:
        """Return softmax(q k^T / sqrt(K) + bias) v; of the bias all places but the last may be 1 wide."""
        batch, heads, queries, width = query_BHTK.shape
        halves = None if bias is None else bias.to(query_BHTK.dtype)
        weights_BHTT = query_BHTK.new_empty(batch, heads, queries, key_BHTK.shape[2])
        out_BTHK = query_BHTK.new_empty(batch, queries, heads, width)
        for row, weights_HTT in enumerate(weights_BHTT):
            logits_HTT = _logits(query_BHTK[row], key_BHTK[row], None if halves is None else halves[row % len(halves)])
            torch.softmax(logits_HTT, dim=-1, out=weights_HTT)
            out_BTHK[row] = torch.bmm(weights_HTT, value_BHTK[row]).transpose(0, 1)
        ctx.save_for_backward(query_BHTK, key_BHTK, value_BHTK, weights_BHTT)
        ctx.bias = None if bias is None else (bias.shape, bias.dtype)
        return out_BTHK.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        (out_BHTK,) = gradients
        query_BHTK, key_BHTK, value_BHTK, weights_BHTT = ctx.saved_tensors
        scale = query_BHTK.shape[-1] ** -0.5
        query, key, value = (
            # In the order of the projections' outputs, so that going back through them needs no copy.
            torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
            for x in (query_BHTK, key_BHTK, value_BHTK)
        )
        wanted = ctx.bias is not None and ctx.needs_input_grad[3]
        bias = torch.zeros(ctx.bias[0]) if wanted else None
        for row, weights_HTT in enumerate(weights_BHTT):
            out_HTK = out_BHTK[row].contiguous()
            value[row] = torch.bmm(weights_HTT.transpose(1, 2), out_HTK)
            slope_HTT = torch.bmm(out_HTK, value_BHTK[row].transpose(1, 2))
            logits_HTT = torch._softmax_backward_data(slope_HTT, weights_HTT, -1, weights_HTT.dtype)
            if bias is not None:
                bias[row % len(bias)] += logits_HTT.sum_to_size(bias.shape[1:])
            query[row] = torch.bmm(logits_HTT, key_BHTK[row]).mul_(scale)
            key[row] = torch.bmm(logits_HTT.transpose(1, 2), query_BHTK[row]).mul_(scale)
        return query, key, value, None if bias is None else bias.to(ctx.bias[1])


def _logits(query_HTK: Tensor, key_HTK: Tensor, bias_HTT: Tensor | None) -> Tensor:
    scale = query_HTK.shape[-1] ** -0.5
    if bias_HTT is None:
        return torch.bmm(query_HTK, key_HTK.transpose(1, 2)).mul_(scale)
    return torch.baddbmm(bias_HTT, query_HTK, key_HTK.transpose(1, 2), alpha=scale)
