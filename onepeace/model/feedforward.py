"""The feed-forward expert: one for each modality in every block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from encoders.dropout import Dropout


class GeGLU(nn.Module):
    """GELU(x W_gate) * (x W_up), an optional LayerNorm, then the projection back (Shazeer, 2020, arXiv:2002.05202).

    The inner LayerNorm is that of Magneto (Wang et al., 2022, arXiv:2210.06423).
    """

    def __init__(self, width: int, hidden: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(hidden) if norm else nn.Identity()
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width)."""
        out: Tensor = self.down(self.norm(self.dropout(F.gelu(self.gate(x)) * self.up(x))))
        return out
