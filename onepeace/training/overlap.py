"""How far boxes, or spans of time, overlap, as a pure function with a gradient. B: pairs, C: corners."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_iou(box_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Return IoU less the empty share of the smallest box around both (Rezatofighi et al., 2019, arXiv:1902.09630).

    (B,), in (-1, 1]: algorithm 1 there. Boxes are (left, top, right, bottom) with their corners in order; on a line, as
    times are, (start, end). Any number of leading dimensions may be broadcast.
    """
    (box_low, box_high), (low, high) = (corners.chunk(2, dim=-1) for corners in (box_BC, target_BC))
    inside_B = (torch.minimum(box_high, high) - torch.maximum(box_low, low)).clamp(min=0.0).prod(dim=-1)
    hull_B = (torch.maximum(box_high, high) - torch.minimum(box_low, low)).prod(dim=-1)
    union_B = (box_high - box_low).prod(dim=-1) + (high - low).prod(dim=-1) - inside_B
    return inside_B / union_B - (hull_B - union_B) / hull_B
