"""The head that finds any number of things, in models of both designs, and its way through a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from later import Later
from random_models import DESIGNS
from scipy.stats import norm

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.checkpoint import open_folder, write_folder
from onepeace.model import ModelConfig, TaskConfig, TaskModel
from onepeace.model.set_head import (
    NEVER,
    SAME,
    SPREAD,
    SetHead,
    TokenSetHead,
    found,
    token_places,
    without_repeats,
)
from onepeace.training.set_loss import set_loss

ops = Later("torchvision.ops")

SIZES = {"width": 32, "layers": 2, "heads": 4, "hidden": 48, "embedding_dim": 24, "layer_scale": 1.0}
IDS = torch.tensor([[3, 4, 2], [5, 6, 2]])


def searching(design: str, kind: str) -> tuple[TaskModel, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    medium = Modality.IMAGE if kind == "detect" else Modality.AUDIO
    task = TaskConfig.from_dict({"kind": kind, "modalities": ["text", str(medium)], "outputs": 5})
    model = TaskModel(ModelConfig.from_dict(SIZES | {"adapters": DESIGNS[design]}), task).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    if medium == Modality.IMAGE:
        return model, (torch.randn(2, 3, 64, 64),)
    return model, (torch.randn(2, 32_000), torch.tensor([32_000, 20_480]))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("kind", "numbers"), [("detect", 5), ("locate", 3)])
def test_a_searching_model_answers_with_places_and_comes_back_from_its_folder(
    design: str, kind: str, numbers: int, tmp_path: Path
) -> None:
    model, medium = searching(design, kind)
    inputs = {Modality.TEXT: (IDS,), model.task.pooled_modality: medium}
    with torch.no_grad():
        logits = model(inputs)
        assert logits.shape == (2, 5, numbers)
        write_folder(tmp_path / "out", "out", model.config, model.state_dict(), task=model.task)
        folder = open_folder(tmp_path / "out")
        assert folder.task == model.task
        torch.testing.assert_close(folder.task_model()(inputs), logits)
        other = model({**inputs, Modality.TEXT: (IDS.flip(0),)})
    assert (other - logits).abs().max() > 1e-4  # what is asked for counts


def test_slots_look_around_their_anchors_first() -> None:
    """With logits of zero, attention is the Gaussian around the anchor, which the places of tokens are taken from."""
    head = SetHead(width=32, heads=4, slots=4, layers=1, axes=2)
    nearness = head._nearness(65, head.anchors_QA)
    assert nearness.shape == (1, 1, 4, 65)
    weights = nearness[0, 0, :, 1:].softmax(dim=-1).view(4, 8, 8)
    column, row = np.meshgrid(np.arange(8), np.arange(8))
    for slot, (x, y) in enumerate(((1.5, 1.5), (5.5, 1.5), (1.5, 5.5), (5.5, 5.5))):
        gaussian = norm(x, 4 * SPREAD).pdf(column) * norm(y, 4 * SPREAD).pdf(row)
        np.testing.assert_allclose(weights[slot].numpy(), gaussian / gaussian.sum(), rtol=1e-4)
    assert not nearness[..., 0].any()


def test_tokens_of_a_sound_lie_where_they_are_heard() -> None:
    """onepeace-tiny's tokens begin every 0.32 s, of at most 10 s."""
    model, _ = searching("backbones", "locate")
    assert (model.token_seconds, model.window_seconds) == (0.32, 2.0)
    places = token_places(6, 1, model.token_seconds / model.window_seconds)
    np.testing.assert_allclose(places[:, 0] * 2.0, 0.16 + 0.32 * np.arange(6), rtol=1e-5)


def test_each_token_answers_for_its_own_place_before_any_training() -> None:
    """With weights of zero a token's box is the middle half of the whole, moved to where the token lies."""
    for axes, share, length in ((2, None, 16), (1, 1 / 8, 8)):
        head = TokenSetHead(width=32, axes=axes, token_share=share)
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
        padding = torch.zeros(1, length + 1, dtype=torch.bool)
        padding[:, -1] = True
        logits = head([TokenSequence(Modality.IMAGE, torch.randn(1, length + 1, 32), padding)])
        centres = logits[0, :, :axes].sigmoid()
        torch.testing.assert_close(centres, token_places(length, axes, share))
        torch.testing.assert_close(logits[0, :, axes:-1].sigmoid(), torch.full((length, axes), 0.5))
        odds = logits[0, :-1, -1].exp()
        torch.testing.assert_close(odds, torch.full((length - 1,), 1 / length))  # that one in all answers
        assert found(logits).probabilities[0, -1] == 0.0  # padding never does


@pytest.mark.parametrize("same", [0.1, SAME, 0.7])
def test_repeats_are_those_of_non_maximum_suppression(same: float, rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(6, 40, 5))).float()
    left = without_repeats(logits, same)[..., -1] > NEVER
    places, probabilities = found(logits)
    for row in range(len(logits)):
        kept = ops.nms(places[row], probabilities[row], same)
        assert set(kept.tolist()) == set(left[row].nonzero().flatten().tolist())
    assert 0 < left.sum() < left.numel()
    torch.testing.assert_close(without_repeats(logits[2:3], same)[0], without_repeats(logits, same)[2])


def test_spans_are_repeats_by_their_shared_time() -> None:
    """[0.4, 0.6] and [0.45, 0.65] share 0.15 of 0.25, and [0.4, 0.6] nothing with what lies behind."""
    spans = torch.tensor([[0.5, 0.2, 1.0], [0.55, 0.2, 2.0], [0.8, 0.2, 0.0]])
    logits = torch.cat([spans[:, :2].logit(), spans[:, 2:]], dim=1)[None]
    assert (without_repeats(logits)[0, :, -1] > NEVER).tolist() == [False, True, True]
    assert (without_repeats(logits, 0.65)[0, :, -1] > NEVER).all()


def test_tokens_that_are_slots_come_back_from_their_folder(tmp_path: Path) -> None:
    model, medium = searching("official", "detect")
    task = TaskConfig.from_dict(model.task.to_dict() | {"decoder_layers": 0})
    model = TaskModel(model.config, task).eval()
    inputs = {Modality.TEXT: (IDS,), Modality.IMAGE: medium}
    with torch.no_grad():
        logits = model(inputs)
        assert logits.shape == (2, 16, 5)  # 64 pixels a side, 16 of a patch
        write_folder(tmp_path / "out", "out", model.config, model.state_dict(), task=model.task)
        torch.testing.assert_close(open_folder(tmp_path / "out").task_model()(inputs), logits)


def test_padded_tokens_are_not_asked() -> None:
    torch.manual_seed(0)
    head = SetHead(width=32, heads=4, slots=3, layers=2, axes=1, token_share=1 / 8)
    x, padding = torch.randn(1, 6, 32), torch.zeros(1, 6, dtype=torch.bool)
    padding[:, 4:] = True
    padded = head([TokenSequence(Modality.AUDIO, x, padding)])
    torch.testing.assert_close(padded, head([TokenSequence(Modality.AUDIO, x[:, :4], padding[:, :4])]))


@pytest.mark.parametrize("own_places", [False, True])
def test_a_head_learns_to_find_bright_tokens(own_places: bool) -> None:
    """Tokens say where they are; those to be found are marked: any head that reads them learns this."""
    torch.manual_seed(0)
    head: SetHead | TokenSetHead = SetHead(width=32, heads=4, slots=8, layers=2, axes=1, token_share=1 / 8)
    if own_places:
        head = TokenSetHead(width=32, axes=1, token_share=1 / 8)
    places, mark = torch.randn(2, 8, 32)
    marked = torch.rand(64, 8) < 0.2
    marked[marked.sum(dim=1) > 4] = False
    x = torch.cat([torch.zeros(64, 1, 32), places + marked[..., None] * mark[0]], dim=1)  # behind the class token
    steps = torch.arange(8.0)
    targets = [torch.stack([steps[row], steps[row] + 1], dim=1) / 8 for row in marked]
    sequence = TokenSequence(Modality.AUDIO, x, torch.zeros(64, 9, dtype=torch.bool))
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = set_loss(head([sequence]), targets)
        loss.backward()
        optimizer.step()
    predicted, probabilities = found(head([sequence]).detach())
    counts = (probabilities > 0.5).sum(dim=1)
    assert (counts == marked.sum(dim=1)).float().mean() > 0.9
    centres = [row[p > 0.5].mean(dim=1).sort().values for row, p in zip(predicted, probabilities, strict=True)]
    errors = [
        (c - t.mean(dim=1)).abs() for c, t in zip(centres, targets, strict=True) if len(c) == len(t) and len(t) > 0
    ]
    assert torch.cat(errors).median() < 0.5 / 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modalities": ["text"]}, "a task that detects reads image"),
        ({"kind": "locate"}, "a task that locates reads audio"),
        ({"pooled": "text"}, "task.pooled must be that"),
        ({"pictures": 2}, "one picture"),
        ({"decoder_layers": -1}, "task.decoder_layers"),
        ({"labels": ["one"] * 5}, "task.labels"),
    ],
)
def test_searches_that_cannot_work_are_refused_by_name(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TaskConfig.from_dict({"kind": "detect", "modalities": ["text", "image"], "outputs": 5} | changes)
