"""Embedded items with their texts, which albums are put together of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Items:
    """What albums are made of. M: items."""

    vectors: Tensor  # (M, D) unit rows
    texts: Sequence[Sequence[str]]
    concepts: Sequence[str]
    sources: Sequence[Sequence[int]]  # the items of each source
    weights: Sequence[float]  # how often each source is drawn
