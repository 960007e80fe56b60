"""Rows of different lengths, one behind the other without padding.

B: rows, L: tokens of a row with padding, S: tokens of all rows, D: width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from encoders.tokens import TokenSequence


class Group(NamedTuple):
    """Neighbouring rows of one length."""

    rows: int
    length: int  # tokens of each


@dataclass(frozen=True)
class Packing:
    """Where each row lies. What kernels read of it is made once for all blocks."""

    groups: Sequence[Group]
    device: torch.device
    masks: dict[bool, Any] = field(default_factory=dict, repr=False)  # FlexAttention's, for all queries or the first

    @property
    def rows(self) -> int:
        """B."""
        return sum(group.rows for group in self.groups)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(group.length for group in self.groups)

    @property
    def first(self) -> slice | Tensor:
        """Where the rows begin: indices into the tokens."""
        return slice(None, None, self.groups[0].length) if len(self.groups) == 1 else self.bounds[:-1].long()

    @cached_property
    def bounds(self) -> Tensor:
        """Where each row begins, and behind them where the last one ends, (B + 1,) int32."""
        lengths = [length for rows, length in self.groups for _ in range(rows)]
        return torch.tensor([0, *lengths], device=self.device).cumsum(0, dtype=torch.int32)

    @cached_property
    def row_of(self) -> Tensor:
        """The row of each token, (S,)."""
        counts_B = self.bounds.diff()
        return torch.arange(len(counts_B), device=self.device).repeat_interleave(counts_B)

    @cached_property
    def place_of(self) -> Tensor:
        """The place of each token in its row, (S,)."""
        return torch.arange(len(self.row_of), device=self.device) - self.bounds[self.row_of]


def packed(sequence: TokenSequence) -> tuple[Tensor, Packing, Tensor | None]:
    """Return tokens without padding (S, D), where they lie, and which row of the batch each was (None: in order).

    Rows come sorted by length. The tokens are new: they may be changed in place.
    """
    embeddings_BLD, padding_BL = sequence.embeddings, sequence.padding
    batch, length, _ = embeddings_BLD.shape
    device = embeddings_BLD.device
    if not bool(padding_BL.any()):
        return embeddings_BLD.flatten(0, 1), Packing([Group(batch, length)], device), None
    lengths_B, order_B = (~padding_BL).sum(dim=1).sort(stable=True)
    values, counts = lengths_B.unique_consecutive(return_counts=True)
    groups = [Group(rows, tokens) for rows, tokens in zip(counts.tolist(), values.tolist(), strict=True)]
    return embeddings_BLD[order_B][~padding_BL[order_B]], Packing(groups, device), order_B
