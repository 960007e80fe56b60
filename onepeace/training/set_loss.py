"""The loss of a head that finds any number of things: who answers for what is settled first, at the lowest cost.

B: rows, Q: slots, N: things to be found in a row, A: axes (2 in a picture, 1 in time).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.model.set_head import found
from onepeace.training.overlap import generalised_iou

L1_WEIGHT, IOU_WEIGHT = 5.0, 2.0  # of DETR, beside a presence of 1
SMALLEST = 1e-4  # share of the whole that a side is taken for at least, so that no overlap divides by nothing


def matching_costs(places_QC: Tensor, probabilities_Q: Tensor, targets_NC: Tensor) -> Tensor:
    """Return what it costs that slot q answers for thing n, (Q, N) (Carion et al., 2020, arXiv:2005.12872, eq. 2).

    It is 5 L1 - 2 GIoU - probability, on corners in shares of the whole.
    """
    places_Q1C, targets_1NC = widened(places_QC)[:, None], widened(targets_NC)[None]
    distance_QN = (places_Q1C - targets_1NC).abs().sum(dim=-1)
    overlap_QN = generalised_iou(places_Q1C, targets_1NC)
    return L1_WEIGHT * distance_QN - IOU_WEIGHT * overlap_QN - probabilities_Q[:, None]


@torch.no_grad()
def match(places_QC: Tensor, probabilities_Q: Tensor, targets_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Return slots and the things that they answer for, (min(Q, N),) each: the cheapest of all assignments.

    It is found by the Hungarian method (Kuhn, 1955). A slot of probability 0, at padding, answers for nothing.

    >>> left, right = [0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 1.0, 1.0]
    >>> match(torch.tensor([right, left]), torch.tensor([0.5, 0.5]), torch.tensor([left]))
    (tensor([1]), tensor([0]))
    """
    from scipy.optimize import linear_sum_assignment

    possible_Q = probabilities_Q.nonzero().squeeze(1)
    costs_QN = matching_costs(places_QC[possible_Q], probabilities_Q[possible_Q], targets_NC)
    slots, things = linear_sum_assignment(costs_QN.cpu().numpy())
    return possible_Q[torch.from_numpy(slots).to(possible_Q.device)], torch.from_numpy(things).to(possible_Q.device)


def set_loss(logits_BQC: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Return 5 L1 + 2 (1 - GIoU) of what was matched, and the cross entropy of presence (eq. 1 there, and A.2).

    `targets` holds corners (N, 2A) of each row, in shares of the whole; N may be 0. Places count as the mean over all
    things of the batch, presence as the sum over a row's slots, as the mean over rows.

    Raises:
        ValueError: not one target a row, or more things than slots in one.

    >>> sure = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 9.0]]])  # the middle half of the picture
    >>> box = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    >>> round(set_loss(sure, [box]).item(), 3), round(set_loss(sure, [box[:0]]).item(), 3)
    (0.0, 9.0)
    """
    rows, slots = logits_BQC.shape[:2]
    if len(targets) != rows:
        raise ValueError(f"expected one target a row, got {len(targets)} for {rows}")
    if most := max((len(target) for target in targets if len(target) > slots), default=0):
        raise ValueError(f"a row has {most} things to find and the head {slots} slots: raise task.outputs")
    places_BQC, probabilities_BQ = found(logits_BQC)
    present_BQ = torch.zeros_like(probabilities_BQ)
    answers, wanted = [], []
    for row, target_NC in enumerate(targets):
        if not len(target_NC):
            continue
        target_NC = target_NC.to(places_BQC)
        slots_N, things_N = match(places_BQC[row], probabilities_BQ[row], target_NC)
        present_BQ[row, slots_N] = 1.0
        answers.append(places_BQC[row, slots_N])
        wanted.append(target_NC[things_N])
    presence_BQ = F.binary_cross_entropy_with_logits(logits_BQC[..., -1].float(), present_BQ, reduction="none")
    presence = presence_BQ.sum(dim=1).mean()
    if not answers:
        return presence
    answers_NC, wanted_NC = torch.cat(answers), torch.cat(wanted)
    missing_N = 1.0 - generalised_iou(widened(answers_NC), widened(wanted_NC))
    return presence + L1_WEIGHT * (answers_NC - wanted_NC).abs().sum(dim=-1).mean() + IOU_WEIGHT * missing_N.mean()


def widened(corners: Tensor) -> Tensor:
    """Return the corners, their high ones pushed up where a side is shorter than any that counts."""
    low, high = corners.chunk(2, dim=-1)
    return torch.cat([low, torch.maximum(high, low + SMALLEST)], dim=-1)
