"""Losses of fine-tuning against other libraries and against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from later import Later
from torch import Tensor

from onepeace.training.overlap import generalised_iou
from onepeace.training.task_losses import (
    choice_loss,
    classification_loss,
    grounding_loss,
    tagging_loss,
    task_loss,
)

ops = Later("torchvision.ops")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def boxes(count: int, generator: torch.Generator) -> Tensor:
    first, second = torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second) + 0.01], dim=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_is_the_smoothed_negative_log_likelihood_written_out(
    smoothing: float, generator: torch.Generator
) -> None:
    logits, target = torch.randn(6, 5, generator=generator), torch.tensor([0, 4, 2, 2, 1, 3])
    total = 0.0
    for row, right in zip(logits.log_softmax(dim=1).tolist(), target.tolist(), strict=True):
        total -= sum((1.0 - smoothing if i == right else smoothing / 4) * value for i, value in enumerate(row))
    assert classification_loss(logits, target, smoothing).item() == pytest.approx(total / 6, rel=1e-5)
    certain = F.one_hot(target, 5).float()
    assert classification_loss(logits, certain, smoothing).item() == pytest.approx(total / 6, rel=1e-5)


def test_tagging_adds_up_the_binary_cross_entropies_of_soft_targets(generator: torch.Generator) -> None:
    logits, target = torch.randn(3, 4, generator=generator), torch.rand(3, 4, generator=generator)
    p = [[1 / (1 + math.exp(-x)) for x in row] for row in logits.tolist()]
    total = -sum(
        t * math.log(q) + (1 - t) * math.log(1 - q)
        for ps, ts in zip(p, target.tolist(), strict=True)
        for q, t in zip(ps, ts, strict=True)
    )
    assert tagging_loss(logits, target).item() == pytest.approx(total / 3, rel=1e-5)


def test_choice_is_the_multi_class_hinge_of_pytorch_and_its_constant(generator: torch.Generator) -> None:
    logits, target = torch.randn(5, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0])
    expected = F.multi_margin_loss(logits, target, reduction="none") * 4 + 1.0  # PyTorch divides by the choices
    assert choice_loss(logits, target).item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_generalised_iou_is_that_of_torchvision(generator: torch.Generator) -> None:
    found, target = boxes(200, generator), boxes(200, generator)
    torch.testing.assert_close(
        1.0 - generalised_iou(found, target), ops.generalized_box_iou_loss(found, target), rtol=1e-4, atol=1e-5
    )


def test_grounding_is_the_distance_of_corners_and_the_missing_overlap(generator: torch.Generator) -> None:
    found, target = boxes(20, generator) / 1.1 + 0.01, boxes(20, generator) / 1.1
    found[::4] = found[::4, [2, 3, 0, 1]]  # corners out of order: only their distance counts
    good = torch.ones(20, dtype=torch.bool)
    good[::4] = False
    apart = ops.generalized_box_iou_loss(found[good], target[good], reduction="mean")
    expected = (found - target).abs().sum() / 20 + apart
    assert grounding_loss(found.logit(), target).item() == pytest.approx(expected.item(), rel=1e-4)


def test_grounding_without_one_box_in_order_is_finite_and_so_is_its_gradient(generator: torch.Generator) -> None:
    target = boxes(3, generator) / 1.1
    logits = target[:, [2, 3, 0, 1]].logit().requires_grad_()
    loss = grounding_loss(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert loss.item() == pytest.approx((logits.sigmoid() - target).abs().sum().item() / 3, rel=1e-5)
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


def test_a_task_takes_the_loss_of_its_kind(generator: torch.Generator) -> None:
    logits, classes = torch.randn(3, 4, generator=generator), torch.tensor([1, 0, 3])
    shares = torch.rand(3, 4, generator=generator)
    assert task_loss("classify", logits, classes, 0.1) == classification_loss(logits, classes, 0.1)
    assert task_loss("choose", logits, classes) == choice_loss(logits, classes)
    assert task_loss("tag", logits, shares) == tagging_loss(logits, shares)
    assert task_loss("ground", logits, shares) == grounding_loss(logits, shares)
