"""Matching against all assignments that there are, and the loss against figures worked out by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from later import Later
from torch import Tensor

from onepeace.model.set_head import NEVER, found
from onepeace.training.overlap import generalised_iou
from onepeace.training.set_loss import match, matching_costs, set_loss
from onepeace.training.task_losses import task_loss

ops = Later("torchvision.ops")


def corners(count: int, axes: int, generator: torch.Generator) -> Tensor:
    first, second = torch.rand(2, count, axes, generator=generator)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)


def logits_of(places: Tensor, presence: float) -> Tensor:
    low, high = places.chunk(2, dim=-1)
    inside = torch.cat([(low + high) / 2, high - low], dim=-1).logit(eps=1e-6)
    return torch.cat([inside, torch.full_like(inside[..., :1], presence)], dim=-1)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("slots", "things"), [(5, 3), (4, 4), (6, 1)])
def test_the_cheapest_of_all_assignments_is_found(axes: int, slots: int, things: int) -> None:
    generator = torch.Generator().manual_seed(11)
    for _ in range(20):
        places, targets = corners(slots, axes, generator), corners(things, axes, generator)
        probabilities = torch.rand(slots, generator=generator)
        costs = matching_costs(places, probabilities, targets)
        best = min(
            sum(float(costs[slot, thing]) for thing, slot in enumerate(order))
            for order in permutations(range(slots), things)
        )
        chosen, answered = match(places, probabilities, targets)
        assert sorted(answered.tolist()) == list(range(things))
        assert len(set(chosen.tolist())) == things
        assert float(costs[chosen, answered].sum()) == pytest.approx(best, abs=1e-5)


def test_costs_of_boxes_are_those_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    places, targets = corners(4, 2, generator), corners(3, 2, generator)
    probabilities = torch.rand(4, generator=generator)
    expected = (
        5 * torch.cdist(places, targets, p=1) - 2 * ops.generalized_box_iou(places, targets) - probabilities[:, None]
    )
    torch.testing.assert_close(matching_costs(places, probabilities, targets), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("span", "other", "expected"),
    [
        ((0.0, 2.0), (1.0, 3.0), 1 / 3),  # both together fill the span around them
        ((0.0, 1.0), (3.0, 4.0), -2 / 4),  # half of what is around them is empty
        ((0.0, 4.0), (1.0, 2.0), 1 / 4),
    ],
)
def test_generalised_iou_in_time(span: tuple[float, float], other: tuple[float, float], expected: float) -> None:
    assert float(generalised_iou(torch.tensor(span), torch.tensor(other))) == pytest.approx(expected)
    assert float(generalised_iou(torch.tensor(other), torch.tensor(span))) == pytest.approx(expected)


def test_the_loss_of_two_spans_worked_out_by_hand() -> None:
    """Slots at 0.1-0.3 and 0.6-0.8; the first thing is at 0.5-0.8, the other row holds none."""
    places = torch.tensor([[[0.1, 0.3], [0.6, 0.8]]] * 2)
    logits = logits_of(places, 0.0)
    targets = [torch.tensor([[0.5, 0.8]]), torch.zeros(0, 2)]
    presence = 2 * torch.log(torch.tensor(2.0))  # both slots of either row are undecided
    expected = presence + 5 * 0.1 + 2 * (1 - 2 / 3)
    assert set_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-4)
    assert task_loss("locate", logits, targets) == set_loss(logits, targets)


def test_the_order_of_things_and_slots_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 6, 5, generator=generator)
    targets = [corners(3, 2, generator), corners(2, 2, generator)]
    loss = set_loss(logits, targets)
    order = torch.randperm(6, generator=generator)
    assert set_loss(logits[:, order], [t.flip(0) for t in targets]).item() == pytest.approx(loss.item(), rel=1e-5)


def test_padding_answers_for_nothing_however_near_it_lies() -> None:
    span = torch.tensor([[0.8, 0.9]])
    slots = logits_of(torch.tensor([[0.1, 0.2], [0.8, 0.9]]), presence=0.0)[None]
    slots[0, 1, -1] = NEVER
    assert match(*(part[0] for part in found(slots)), span)[0].tolist() == [0]
    assert set_loss(slots, [span]) == pytest.approx(float(set_loss(slots[:, :1], [span])))


def test_slots_without_a_thing_learn_from_their_presence_alone() -> None:
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    set_loss(logits, [torch.zeros(0, 2)]).backward()
    assert logits.grad is not None
    assert not logits.grad[..., :-1].any()
    torch.testing.assert_close(logits.grad[..., -1], torch.full((1, 3), 0.5))


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_things_at_the_edge_or_without_size_give_finite_gradients(corner: float) -> None:
    logits = torch.full((1, 2, 5), 30.0 if corner else -30.0, requires_grad=True)
    loss = set_loss(logits, [torch.full((1, 4), corner)])
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_places_lie_within_the_whole_with_their_corners_in_order() -> None:
    places, probabilities = found(5 * torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(1)))
    assert (places >= 0).all()
    assert (places <= 1).all()
    assert (places[..., :2] <= places[..., 2:]).all()
    assert probabilities.shape == (4, 7)


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(ValueError, match="one target a row, got 1 for 2"):
        set_loss(torch.zeros(2, 3, 3), [torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="3 things to find and the head 2 slots"):
        set_loss(torch.zeros(1, 2, 3), [torch.rand(3, 2)])
