"""SpecAugment: spans of time and frequency hidden in a log-mel picture (Park et al., 2019, arXiv:1904.08779).

B: sounds, M: mel bins, T: frames, K: spans, each its first place and the one behind its last.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hide_spans(picture_B1MT: Tensor, frames_BK2: Tensor, bins_BK2: Tensor) -> Tensor:
    """Return the pictures with the spans at 0, about the mean that a log-mel picture is brought to."""
    bins, frames = picture_B1MT.shape[2:]
    hidden_BMT = _inside(bins_BK2, bins).unsqueeze(2) | _inside(frames_BK2, frames).unsqueeze(1)
    return picture_B1MT.masked_fill(hidden_BMT.unsqueeze(1), 0.0)


def _inside(spans_BK2: Tensor, places: int) -> Tensor:
    """Return which places lie in a span, (B, places) bool."""
    place_P = torch.arange(places, device=spans_BK2.device)
    return ((place_P >= spans_BK2[..., :1]) & (place_P < spans_BK2[..., 1:])).any(dim=1)
