from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onepeace.training.losses import (
    contrastive_loss,
    cosine_distillation,
    multi_positive_loss,
    positives,
    relational_distillation,
    smooth_l1_distillation,
    symmetric_contrastive_loss,
)


def unit(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("first_key", [0, 3])
def test_contrastive_loss_is_the_smoothed_negative_log_likelihood_written_out(smoothing: float, first_key: int) -> None:
    query_BD, key_ND, scale = unit(4, 8, 0), unit(9, 8, 1), 7.0
    total = 0.0
    for i in range(4):
        logits = [scale * float(query_BD[i] @ key) for key in key_ND]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        log_p = [logit - log_sum for logit in logits]
        other = smoothing / 8  # of each of the N - 1 wrong keys; the right one takes part in the sum over all
        total += -(1 - smoothing - other) * log_p[first_key + i] - other * sum(log_p)
    loss = contrastive_loss(query_BD, key_ND, torch.tensor(scale), first_key, smoothing)
    assert float(loss) == pytest.approx(total / 4, rel=1e-5)


def test_contrastive_loss_of_vectors_that_all_agree_is_the_logarithm_of_the_number_of_keys() -> None:
    same = unit(1, 8, 0).expand(6, 8)
    assert float(contrastive_loss(same, same, torch.tensor(20.0))) == pytest.approx(math.log(6))


def test_the_symmetric_loss_sends_gradient_through_queries_and_scale_only() -> None:
    left, right, scale = (
        unit(5, 8, 0).requires_grad_(),
        unit(5, 8, 1).requires_grad_(),
        torch.tensor(5.0, requires_grad=True),
    )
    symmetric_contrastive_loss(left, right, scale).backward()
    expected = torch.autograd.grad(contrastive_loss(left, right.detach(), scale.detach()) / 2, left)[0]
    torch.testing.assert_close(left.grad, expected)
    assert scale.grad is not None
    assert float(scale.grad) != 0.0


def test_multi_positive_loss_with_one_positive_each_is_the_contrastive_loss() -> None:
    query_BD, key_ND, scale = unit(4, 8, 0), unit(7, 8, 1), torch.tensor(9.0)
    target_BN = positives(torch.arange(4) + 2, torch.arange(7))
    torch.testing.assert_close(
        multi_positive_loss(query_BD, key_ND, scale, target_BN, 0.1), contrastive_loss(query_BD, key_ND, scale, 2, 0.1)
    )


def test_positives_share_the_weight_among_equal_concepts() -> None:
    target_BN = positives(torch.tensor([5, 6, 9]), torch.tensor([5, 6, 5, 7]))
    expected = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(target_BN, expected)


def test_multi_positive_loss_does_not_push_equal_concepts_apart() -> None:
    query_BD = unit(2, 8, 0)
    key_ND = torch.cat([query_BD[:1], query_BD[:1], unit(1, 8, 3)])
    target_BN = positives(torch.tensor([1]), torch.tensor([1, 1, 2]))
    loss = multi_positive_loss(query_BD[:1], key_ND, torch.tensor(50.0), target_BN)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-3)  # two keys that are equally right


def test_cosine_distillation_is_zero_for_equal_vectors_and_two_for_opposite_ones() -> None:
    vectors = unit(6, 8, 0)
    assert float(cosine_distillation(vectors, vectors)) == pytest.approx(0.0, abs=1e-6)
    assert float(cosine_distillation(vectors, -vectors)) == pytest.approx(2.0)


def test_relational_distillation_is_the_divergence_written_out() -> None:
    student_BD, teacher_BF, temperature = unit(4, 3, 0), 5 * unit(4, 7, 1), 0.3
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        p = [math.exp(float(F.cosine_similarity(teacher_BF[i], teacher_BF[j], dim=0)) / temperature) for j in others]
        q = [math.exp(float(student_BD[i] @ student_BD[j]) / temperature) for j in others]
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert float(relational_distillation(student_BD, teacher_BF, temperature)) == pytest.approx(total / 4, rel=1e-4)


def test_relational_distillation_does_not_mind_a_rotation() -> None:
    student_BD = unit(6, 5, 0)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    assert float(relational_distillation(student_BD, 3 * student_BD @ rotation)) == pytest.approx(0.0, abs=1e-5)


def test_smooth_l1_distillation_is_the_distance_to_standardised_features() -> None:
    teacher_BF = torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0, 4.0, 0.0, 0.0]])
    standard = (teacher_BF - teacher_BF.mean(1, keepdim=True)) / teacher_BF.std(1, keepdim=True, correction=0)
    assert float(smooth_l1_distillation(standard, teacher_BF)) == pytest.approx(0.0, abs=1e-5)
    far = standard + torch.tensor([0.5, -0.5, 2.0, 0.0])
    assert float(smooth_l1_distillation(far, teacher_BF)) == pytest.approx((0.125 + 0.125 + 1.5) / 4, rel=1e-3)
