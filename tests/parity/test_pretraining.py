"""Our pretraining losses, gradients and optimiser steps against the official code's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from parity_figures import Figures, read_checkpoint
from torch import Tensor

from encoders.modality import Modality
from onepeace.convert import pretraining_model
from onepeace.official_names import our_name
from onepeace.training.losses import symmetric_contrastive_loss
from onepeace.training.optim import OptimizerConfig, build_optimizer, cosine_lr, parameter_groups
from onepeace.training.pretraining import (
    STAGE1,
    STAGE2,
    STAGE2_TRAINABLE,
    MaskedView,
    Passes,
    denoising_terms,
    pretraining_passes,
)

STAGES = {"stage1": (STAGE1, Modality.IMAGE), "stage2": (STAGE2, Modality.AUDIO)}
TERMS = {
    "stage1": {
        "itc_loss": "contrastive",
        "dcl_text_loss": "text",
        "dcl_image_loss": "media",
        "dcl_vl_text_loss": "joint_text",
        "dcl_vl_image_loss": "joint_media",
    },
    "stage2": {
        "atc_loss": "contrastive",
        "dcl_audio_loss": "media",
        "dcl_al_text_loss": "joint_text",
        "dcl_al_audio_loss": "joint_media",
    },
}


STUDENTS = {  # official name of a pass -> ours
    "stage1": {"text": "text", "image": "media", "vl_text": "joint_text", "vl_image": "joint_media"},
    "stage2": {"audio": "media", "al_text": "joint_text", "al_audio": "joint_media"},
}
UNUSED = re.compile(r".*mask_embedding|decoder_wrapper\.\w+\.cls_embedding")  # official parameters that nothing reads


@dataclass(frozen=True)
class Batch:
    media: tuple[Tensor, ...]
    ids: Tensor
    views: dict[str, MaskedView]


class Pretraining(torch.nn.Module):
    """Model and decoder of an official checkpoint, and the whole loss of a stage."""

    def __init__(self, goldens: Path, stage: str) -> None:
        super().__init__()
        state = read_checkpoint(goldens / "tinyA" / f"pretrain_{stage}.pt.xz")
        self.model, self.decoder = pretraining_model(state["cfg"], state["model"], padding_leaks=True)
        self.config, self.modality = STAGES[stage]
        if stage == "stage2":
            for name, parameter in self.named_parameters():
                trains = any(re.search(pattern, name) for pattern in STAGE2_TRAINABLE)
                parameter.requires_grad_(parameter.requires_grad and trains)

    def passes(self, batch: Batch) -> Passes:
        return pretraining_passes(
            self.model,
            self.decoder,
            batch.ids,
            self.modality,
            self.model.adapters[self.modality].features(*batch.media),
            batch.views,
            self.config,
            frozen_text=self.modality is Modality.AUDIO,
        )

    def terms(self, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        passes = self.passes(batch)
        contrastive = symmetric_contrastive_loss(passes.media, passes.text, self.model.logit_scale())
        return {"contrastive": (1.0, contrastive), **denoising_terms(passes, batch.views, self.config)}


def name_of(official: str) -> str:
    """Our name, in `Pretraining`, of an official parameter."""
    name = our_name(official)
    assert name is not None, official
    return name if name.startswith("decoder.") else f"model.{name}"


def batch(figures: Figures, stage: str) -> Batch:
    views = {
        ours: MaskedView(figures[f"in.{official}_preserve_ids"], figures[f"in.{official}_mask_indices"])
        for official, ours in STUDENTS[stage].items()
    }
    if stage == "stage1":
        return Batch((figures["in.src_images"],), figures["in.src_tokens"], views)
    frames_B = (~figures["in.audio_padding_masks"][:, 1:]).sum(1)
    samples_B = 400 + 320 * (frames_B - 1)  # a number of samples that gives so many frames
    return Batch((figures["in.src_audios"], samples_B), figures["in.src_tokens"], views)


def total(terms: dict[str, tuple[float, Tensor]]) -> Tensor:
    return torch.stack([weight * value for weight, value in terms.values()]).sum()


@pytest.mark.parametrize("stage", STAGES)
def test_every_pass_equals_the_official_one(stage: str, goldens: Path, figures: Callable[[str], Figures]) -> None:
    expected = figures(f"tinyA/{stage}")
    model = Pretraining(goldens, stage)
    modality = model.modality
    with torch.no_grad():
        passes = model.passes(batch(expected, stage))
    ours = {f"teacher.{modality}_logits": passes.media, "teacher.text_logits": passes.text}
    ours["teacher.text"] = passes.teachers["text"].embeddings
    for official, name in STUDENTS[stage].items():
        ours[f"student.{official}"] = passes.students[name]
        if official != "audio":  # stage 2 compares with the joint pass, the figure is of the sound alone
            ours[f"teacher.{official}"] = passes.teachers[name].embeddings
        if "_" in official:
            ours[f"student.enc_{official}"] = passes.visible[name].embeddings
            assert torch.equal(passes.visible[name].padding, expected[f"student.enc_{official}_pad"])
    compared = 0
    for name, value in ours.items():
        figure = expected.get(name, expected.get(f"{name}_rows8"))
        if figure is None:
            continue
        rows = figure.shape[1]
        if figure.ndim == 3 and rows < value.shape[1]:
            value = value[:, :rows]
        padding = expected.get(f"{name}_pad")
        keep = torch.ones(figure.shape[:-1], dtype=torch.bool) if padding is None else ~padding[:, :rows]
        torch.testing.assert_close(value[keep], figure[keep], rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared >= len(STUDENTS[stage]) * 2


@pytest.mark.parametrize("stage", STAGES)
def test_every_loss_term_and_gradient_equals_the_official_one(
    stage: str, goldens: Path, figures: Callable[[str], Figures]
) -> None:
    expected = figures(f"tinyA/{stage}")
    official = json.loads((goldens / "tinyA" / f"{stage}_grads.json").read_text())
    model = Pretraining(goldens, stage)
    terms = model.terms(batch(expected, stage))
    for name, ours in TERMS[stage].items():
        torch.testing.assert_close(terms[ours][1], expected[f"loss.{name}"], rtol=1e-4, atol=0)
    torch.testing.assert_close(total(terms), expected["loss.loss"], rtol=1e-4, atol=0)
    total(terms).backward()
    parameters = dict(model.named_parameters())
    for name, norm in official["grad_norms"].items():
        gradient = parameters.pop(name_of(name)).grad
        assert gradient is not None, name
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    assert all(parameter.grad is None for parameter in parameters.values())
    untouched = {name_of(n) for n in official["params_without_grad"] if not UNUSED.fullmatch(n)}
    assert untouched == parameters.keys() - {"model.adapters.audio.mask_token"}
    assert {name_of(n) for n in official["frozen"]} == untouched


@pytest.mark.parametrize("stage", STAGES)
def test_parameter_groups_equal_the_official_ones(stage: str, goldens: Path) -> None:
    official = json.loads((goldens / "tinyA" / f"{stage}_param_groups.json").read_text())
    model = Pretraining(goldens, stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), OptimizerConfig(weight_decay=0.05))
    ours = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in groups}
    assert ours == {
        group["weight_decay"]: {name_of(n) for n in group["params"] if not UNUSED.fullmatch(n)} for group in official
    }


@pytest.mark.parametrize("stage", STAGES)
def test_optimiser_steps_equal_the_official_ones(stage: str, goldens: Path, figures: Callable[[str], Figures]) -> None:
    steps = json.loads((goldens / "tinyA" / f"{stage}_train_steps.json").read_text())
    pairs = batch(figures(f"tinyA/{stage}"), stage)
    model = Pretraining(goldens, stage)
    config, length = {
        "stage1": (OptimizerConfig(lr=5e-4, warmup=3000 / 200_000), 200_000),
        "stage2": (OptimizerConfig(lr=2e-4, warmup=0.1), 40),
    }[stage]
    optimizer, _ = build_optimizer(model.named_parameters(), config, length)
    warmup = int(config.warmup * length)
    for step in steps:
        rate = cosine_lr(step["update"], length, warmup, config.lr, config.min_lr)
        assert rate == pytest.approx(step["lr"], rel=1e-9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        terms = model.terms(pairs)
        loss = total(terms)
        assert loss.item() == pytest.approx(step["loss"], rel=1e-3)
        for name, ours in TERMS[stage].items():
            assert terms[ours][1].item() == pytest.approx(step[name], rel=1e-3), name
        assert model.model.logit_scale().item() == pytest.approx(step["logit_scale_exp"], rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        assert norm.item() == pytest.approx(step["grad_norm"], rel=1e-3)
        optimizer.step()
