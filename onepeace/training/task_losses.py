"""Losses of fine-tuning as pure functions, each the mean over rows. B: rows, C: classes or choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.model.task_head import SEARCHED, TaskKind
from onepeace.training.overlap import generalised_iou
from onepeace.training.set_loss import set_loss


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


def task_loss(
    kind: TaskKind,
    logits: Tensor,
    target: Tensor | Sequence[Tensor],
    smoothing: float = 0.0,
    weight_C: Tensor | None = None,
) -> Tensor:
    """Return the loss of a kind of task; `smoothing` and the classes' weights count for `classify` alone.

    The target is a tensor; where boxes or spans are searched for, one (N, 2A) for each row, as `set_loss` takes them.
    """
    if kind in SEARCHED:
        return set_loss(logits, list(target))
    assert isinstance(target, Tensor)
    if kind == "classify":
        return classification_loss(logits, target, smoothing, weight_C)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]]
    losses = {"tag": tagging_loss, "choose": choice_loss, "ground": grounding_loss}
    return losses[kind](logits, target)
