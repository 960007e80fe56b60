"""Where a token stands, told in waves, to networks that do not know."""

from __future__ import annotations

import torch
from torch import Tensor

OCTAVES = 4
WAVES = 2 * OCTAVES  # numbers that tell a place along one axis


def waves(places: Tensor) -> Tensor:
    """Return cosines and sines of places (...) from 0 to 1, of half a wave, one, two and four: (..., WAVES).

    After Mildenhall et al., 2020 (arXiv:2003.08934, eq. 4).

    >>> waves(torch.tensor([0.0, 0.5, 1.0]))[:, 0]  # the longest cosine alone orders them
    tensor([ 1.0000e+00, -4.3711e-08, -1.0000e+00])
    """
    angles = places[..., None] * torch.pi * 2.0 ** torch.arange(OCTAVES, device=places.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def middles(count: int, device: torch.device | None = None) -> Tensor:
    """Return the middles of equal parts of 0 to 1.

    >>> middles(4)
    tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    return (torch.arange(count, device=device) + 0.5) / count
