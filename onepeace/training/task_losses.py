"""Losses of fine-tuning as pure functions, each the mean over rows. B: rows, C: classes or choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.model.task_head import TaskKind


def classification_loss(
    logits_BC: Tensor, target: Tensor, smoothing: float = 0.0, weight_C: Tensor | None = None
) -> Tensor:
    """Cross entropy with label smoothing (Szegedy et al., 2016, arXiv:1512.00567, section 7).

    `target` is (B,) classes, or (B, C) probabilities. `smoothing` is the share of the target that the other C - 1
    classes divide; PyTorch's own spreads it over all C. With a weight for each class the mean is weighted too.
    """
    classes = logits_BC.shape[1]
    spread = smoothing * classes / (classes - 1) if classes > 1 else 0.0
    return F.cross_entropy(logits_BC.float(), target, weight_C, label_smoothing=spread)


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Return a weight for each class, (C,), so that all count the same: rows / (classes * rows of the class).

    >>> balanced_weights([3, 1])
    tensor([0.6667, 2.0000])
    """
    rows_C = torch.tensor(counts, dtype=torch.float32)
    return rows_C.sum() / (len(rows_C) * rows_C)


def tagging_loss(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Binary cross entropy, summed over the classes, for any number of right ones (Teney et al., 2017).

    Targets in [0, 1] may be soft, as the scores of answers to visual questions are (arXiv:1708.02711, eq. 2).
    """
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC.float(), target_BC.float(), reduction="none")
    return loss_BC.sum(dim=1).mean()


def choice_loss(logits_BC: Tensor, target_B: Tensor, margin: float = 1.0) -> Tensor:
    """Hinge over choices: the sum of max(0, margin + logit - logit of the right one) (Weston and Watkins, 1999).

    As in the official code the right choice counts too: it adds the margin, and no gradient.
    """
    right_B1 = logits_BC.gather(1, target_B[:, None])
    return (margin + logits_BC - right_B1).float().clamp(min=0.0).sum(dim=1).mean()


def grounding_loss(logits_B4: Tensor, target_B4: Tensor) -> Tensor:
    """L1 distance of the corners plus 1 - GIoU (Carion et al., 2020, arXiv:2005.12872, section 3.1).

    The sigmoid of the logits, and the target, are (left, top, right, bottom) in shares of the picture. Overlap counts
    for rows whose predicted corners are in order; where there is none it adds nothing (the official code gives NaN).
    """
    box_B4 = logits_B4.float().sigmoid()
    target_B4 = target_B4.float()
    corners = (box_B4 - target_B4).abs().sum(dim=1).mean()
    ordered_B = (box_B4[:, :2] < box_B4[:, 2:]).all(dim=1)
    missing = 1.0 - generalised_iou(box_B4[ordered_B], target_B4[ordered_B])
    return corners + missing.sum() / max(1, len(missing))


def generalised_iou(box_B4: Tensor, target_B4: Tensor) -> Tensor:
    """Return IoU less the empty share of the smallest box around both (Rezatofighi et al., 2019, arXiv:1902.09630).

    (B,), in (-1, 1]: algorithm 1 there. Boxes are (left, top, right, bottom) with their corners in order.
    """
    low, high = torch.minimum, torch.maximum
    sides = (high(box_B4[:, :2], target_B4[:, :2]), low(box_B4[:, 2:], target_B4[:, 2:]))
    around = (low(box_B4[:, :2], target_B4[:, :2]), high(box_B4[:, 2:], target_B4[:, 2:]))
    inside_B = (sides[1] - sides[0]).clamp(min=0.0).prod(dim=1)
    hull_B = (around[1] - around[0]).prod(dim=1)
    areas = [(corners_B4[:, 2:] - corners_B4[:, :2]).prod(dim=1) for corners_B4 in (box_B4, target_B4)]
    union_B = areas[0] + areas[1] - inside_B
    return inside_B / union_B - (hull_B - union_B) / hull_B


def task_loss(
    kind: TaskKind, logits: Tensor, target: Tensor, smoothing: float = 0.0, weight_C: Tensor | None = None
) -> Tensor:
    """Return the loss of a kind of task; `smoothing` and the classes' weights count for `classify` alone."""
    if kind == "classify":
        return classification_loss(logits, target, smoothing, weight_C)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]]
    losses = {"tag": tagging_loss, "choose": choice_loss, "ground": grounding_loss}
    return losses[kind](logits, target)
