"""Losses as pure functions. B: queries, N: keys, D: width of the embeddings.

All vectors that go in have length one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    query_BD: Tensor, key_ND: Tensor, scale: Tensor, first_key: int = 0, smoothing: float = 0.0
) -> Tensor:
    """InfoNCE from queries to keys (Oord et al., 2018, arXiv:1807.03748, eq. 4).

    Row i of `query_BD` matches row `first_key + i` of `key_ND`; with several processes the keys are gathered and
    `first_key` is this process's offset. `smoothing` is the share of the target that the other keys divide.

    >>> rows = torch.eye(3)
    >>> round(float(contrastive_loss(rows, rows, torch.tensor(10.0))), 4)
    0.0001
    >>> round(float(contrastive_loss(rows, rows.roll(1, 0), torch.tensor(10.0))), 4)  # every pair is wrong
    10.0001
    """
    target_B = first_key + torch.arange(len(query_BD), device=query_BD.device)
    return _cross_entropy(query_BD, key_ND, scale, target_B, smoothing)


def multi_positive_loss(
    query_BD: Tensor, key_ND: Tensor, scale: Tensor, target_BN: Tensor, smoothing: float = 0.0
) -> Tensor:
    """InfoNCE where a query may match several keys: cross entropy to a distribution (Khosla et al., 2020, eq. 2).

    Each row of `target_BN` adds up to one, as `positives` and a teacher's probabilities do.

    >>> rows = torch.eye(2)
    >>> match = torch.tensor([[True, True], [False, True]])  # the first query has two keys
    >>> round(float(multi_positive_loss(rows, rows, torch.tensor(1.0), even_targets(match))), 4)
    0.5633
    """
    return _cross_entropy(query_BD, key_ND, scale, target_BN, smoothing)


def _cross_entropy(query_BD: Tensor, key_ND: Tensor, scale: Tensor, target: Tensor, smoothing: float) -> Tensor:
    logits_BN = (scale * query_BD @ key_ND.T).float()
    # Here the share goes to the N - 1 wrong keys; PyTorch spreads its own over all N.
    keys = len(key_ND)
    return F.cross_entropy(logits_BN, target, label_smoothing=smoothing * keys / (keys - 1) if keys > 1 else 0.0)


def positives(query_concept_B: Tensor, key_concept_N: Tensor) -> Tensor:
    """Return (B, N) targets: equal weight on every key that shows the query's concept, rows adding up to one.

    >>> positives(torch.tensor([7, 8]), torch.tensor([7, 7, 8]))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    return even_targets(query_concept_B[:, None] == key_concept_N[None, :])


def fits(media_concept: Tensor, text_concept: Tensor) -> Tensor:
    """Return (B, N): whether a medium shows all that a text says.

    Concepts are (B,) and (N,), or where sounds are mixed (B, 2) and (N, 2), a lone concept written twice. So a mix of a
    dog and rain fits "rain", "a dog" and "a dog and rain", while "a dog and rain" fits no dog alone.

    >>> dog, rain = 1, 2
    >>> fits(torch.tensor([[dog, rain]]), torch.tensor([[dog, dog], [rain, rain], [dog, rain], [3, 3]]))
    tensor([[ True,  True,  True, False]])
    >>> fits(torch.tensor([[dog, dog]]), torch.tensor([[dog, rain]]))
    tensor([[False]])
    """
    media_BC, text_NC = media_concept.view(len(media_concept), -1), text_concept.view(len(text_concept), -1)
    return (media_BC[:, None, :, None] == text_NC[None, :, None, :]).any(dim=2).all(dim=2)


def even_targets(match_BN: Tensor) -> Tensor:
    """Return (B, N) targets: equal weight on every key that matches the query, rows adding up to one.

    >>> even_targets(torch.tensor([[True, False, True], [False, False, False]]))
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.0000, 0.0000]])
    """
    weight_BN = match_BN.float()
    return weight_BN / weight_BN.sum(dim=1, keepdim=True).clamp(min=1.0)


def symmetric_contrastive_loss(left_BD: Tensor, right_BD: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean of both directions for one process's pairs (Radford et al., 2021, arXiv:2103.00020, figure 3).

    Keys pass no gradient: it flows through the query side and the scale, as with keys of other processes.

    >>> rows = torch.eye(3)
    >>> round(float(symmetric_contrastive_loss(rows, rows, torch.tensor(10.0))), 4)
    0.0001
    """
    to_right = contrastive_loss(left_BD, right_BD.detach(), scale, smoothing=smoothing)
    to_left = contrastive_loss(right_BD, left_BD.detach(), scale, smoothing=smoothing)
    return (to_right + to_left) / 2


def denoising_contrastive_loss(
    student_BLD: Tensor,
    teacher_BLD: Tensor,
    masked_BL: Tensor,
    padding_BL: Tensor,
    scale: float = 2.5,
    smoothing: float = 0.1,
) -> Tensor:
    """InfoNCE from the student's predictions of masked tokens to the teacher's features (Wang et al., 2023, eq. 3).

    Keys are all tokens of the batch that are not padding; the class token is left out by the caller. The teacher
    passes no gradient. B: batch, L: tokens, D: width of the features, which need not have length one.

    >>> teacher = torch.eye(4).reshape(1, 4, 4)
    >>> masked, padding = torch.tensor([[True, False, True, False]]), torch.zeros(1, 4, dtype=torch.bool)
    >>> round(float(denoising_contrastive_loss(teacher, teacher, masked, padding, smoothing=0.0)), 4)
    0.2201
    """
    present_N = ~padding_BL.flatten()
    student_ND = F.normalize(student_BLD.flatten(0, 1)[present_N].float(), dim=-1)
    teacher_ND = F.normalize(teacher_BLD.detach().flatten(0, 1)[present_N].float(), dim=-1)
    chosen_S = masked_BL.flatten()[present_N].nonzero().squeeze(1)
    return _cross_entropy(student_ND[chosen_S], teacher_ND, student_ND.new_tensor(scale), chosen_S, smoothing)


def smooth_l1_distillation(student_BF: Tensor, teacher_BF: Tensor, beta: float = 1.0) -> Tensor:
    """Return the smooth L1 distance to a teacher's features, of any length, brought to mean 0 and variance 1 a row.

    Baevski et al., 2022, arXiv:2202.03555, eq. 4; below `beta` the distance is squared. F: width of the features.

    >>> features = torch.tensor([[1.0, -1.0], [-3.0, 3.0]])
    >>> round(float(smooth_l1_distillation(features.sign(), features)), 4)
    0.0
    """
    return F.smooth_l1_loss(student_BF.float(), F.layer_norm(teacher_BF.float(), teacher_BF.shape[-1:]), beta=beta)


def relational_distillation(student_BD: Tensor, teacher_BF: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the KL divergence between what is near what for the teacher and for the student; widths may differ.

    Each row of similarities to the batch's other rows becomes a distribution (Passalis and Tefas, 2018,
    arXiv:1803.10837). 0 where both agree, whatever their rotation.

    >>> rows = F.normalize(torch.tensor([[1.0, 0.2], [0.3, 1.0], [-1.0, 0.5]]), dim=-1)
    >>> turned = rows @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> abs(float(relational_distillation(turned, rows))) < 1e-6
    True
    """
    off_diagonal_BB = ~torch.eye(len(student_BD), dtype=torch.bool, device=student_BD.device)
    teacher_BF = F.normalize(teacher_BF.float(), dim=-1)
    student_BD = student_BD.float()
    student_BB, teacher_BB = (
        (x @ x.T)[off_diagonal_BB].view(len(x), -1).div(temperature).log_softmax(dim=-1)
        for x in (student_BD, teacher_BF)
    )
    return F.kl_div(student_BB, teacher_BB, reduction="batchmean", log_target=True)


def cosine_distillation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Return one minus the mean cosine between a student's vectors and a teacher's: 0 where they agree.

    >>> rows = torch.eye(2)
    >>> float(cosine_distillation(rows, rows)), float(cosine_distillation(rows, rows.flip(0)))
    (0.0, 1.0)
    """
    return 1.0 - (student_BD * teacher_BD).sum(dim=-1).float().mean()
