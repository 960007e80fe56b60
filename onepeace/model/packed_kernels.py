"""Kernels of a GPU that attend within rows that lie one behind the other: one call for all lengths.

S: tokens of all rows, Q: queries, all tokens or each row's first one, B: rows, H: heads, K: width of a head, T: tokens
of the longest row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from onepeace.model.packing import Packing


def flash(query_QHK: Tensor, key_SHK: Tensor, value_SHK: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
    """Return (Q, H, K) by FlashAttention 2 (Dao, 2023, arXiv:2307.08691), which knows no bias and half types only.

    It is flash-attn's where that is installed (the extra of that name), else the one that comes with torch.
    """
    assert bias is None
    everywhere = len(query_QHK) == len(key_SHK)
    bounds_B = packing.bounds
    firsts_B = torch.arange(len(bounds_B), dtype=torch.int32, device=packing.device)
    query_bounds_B, longest = (bounds_B, packing.longest) if everywhere else (firsts_B, 1)
    kernel = varlen_kernel()
    out: Tensor = kernel(query_QHK, key_SHK, value_SHK, query_bounds_B, bounds_B, longest, packing.longest)
    return out


@cache
def varlen_kernel() -> Callable[..., Any]:
    """Return the FlashAttention for rows of different lengths that is there."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        from torch.nn.attention.varlen import varlen_attn

        return cast(Callable[..., Any], varlen_attn)
    return cast(Callable[..., Any], flash_attn_varlen_func)


def flex(query_QHK: Tensor, key_SHK: Tensor, value_SHK: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
    """Return (Q, H, K) by FlexAttention (Dong et al., 2024, arXiv:2412.05496): the bias is read by place in the row.

    `bias` is (1, H, T, T) or wider. On a GPU the kernel is compiled, on a CPU it runs as plain products.
    """
    from torch.nn.attention import flex_attention as library

    everywhere = len(query_QHK) == len(key_SHK)
    row_Q = packing.row_of if everywhere else torch.arange(len(query_QHK), device=packing.device)
    place_Q = packing.place_of if everywhere else torch.zeros_like(row_Q)
    row_S, place_S = packing.row_of, packing.place_of

    def in_the_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return row_Q[query] == row_S[key]

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score if bias is None else score + bias[0, head, place_Q[query], place_S[key]]

    kernel: Any = compiled(library.flex_attention) if query_QHK.is_cuda else library.flex_attention
    if everywhere not in packing.masks:
        packing.masks[everywhere] = library.create_block_mask(
            in_the_row, None, None, len(row_Q), len(row_S), device=packing.device
        )
    heads_first = [x.transpose(0, 1)[None] for x in (query_QHK, key_SHK, value_SHK)]
    out_HQK: Tensor = kernel(*heads_first, score_mod=biased, block_mask=packing.masks[everywhere])[0]
    return out_HQK.transpose(0, 1)


@lru_cache(maxsize=1)
def compiled(function: Any) -> Any:
    """Return the function compiled for lengths of any number."""
    return torch.compile(function, dynamic=True)
