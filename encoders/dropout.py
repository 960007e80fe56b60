"""Dropout that draws its masks fast on a CPU, where torch draws one number after another on one core."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 256  # a mask is drawn as bytes, so shares are rounded to 1 / 256


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al., 2014). What it drops follows from torch's seed, as with `nn.Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with a random share of its numbers at 0 and the others scaled up, in training."""
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        if not self.training or not dropped or x.device.type != "cpu":
            return super().forward(x)
        rng = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
        drawn = np.frombuffer(rng.bytes(x.numel()), dtype=np.uint8)
        kept = torch.from_numpy(drawn >= dropped).view(torch.uint8).view(x.shape)  # bool itself converts slowly
        factors = kept.to(x.dtype)
        return x * factors.mul_(LEVELS / (LEVELS - dropped))
