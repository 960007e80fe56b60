"""Rows of all processes, for losses that compare across the whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, without gradient, own rows included.

    Every process must hold the same number of rows. A single process gets its own back.
    """
    rows = rows.detach()
    if not dist.is_available() or not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
