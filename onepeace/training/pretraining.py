"""Masked feature distillation, the denoising half of ONE-PEACE's pretraining (Wang et al., 2023, arXiv:2305.11172).

A student that sees a part of the tokens predicts, through the decoder, what the same network makes of all of them.
There is no averaged copy: the teacher is this very model's forward pass, which the contrastive loss needs anyway, and
adapters compute the contents of tokens once for all passes. B: batch, L: tokens with the class token, P: visible ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.decoder import Decoder
from onepeace.model.onepeace import OnePeace
from onepeace.training.losses import denoising_contrastive_loss
from onepeace.training.masking import mask_more, mask_spans, mask_tokens, mask_words, masked_places, visible_places


@dataclass(frozen=True)
class MaskedView:
    """Which tokens of one modality the student sees."""

    places: Tensor  # (B, P) int64, the class token's 0 first, -1: padding
    masked: Tensor  # (B, L) bool, True where the prediction counts


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """The terms and their masks. The defaults are stage 1, vision and language; `STAGE2` is sound and language.

    Ratios are shares of the tokens that are masked; the class token and the end of a text never are.
    """

    text: float = 0.5  # weights: of text alone,
    media: float = 1.0  # of the medium alone,
    joint_text: float = 0.5  # and of the parts of both together
    joint_media: float = 0.5
    text_ratio: float = 0.15  # of whole words
    media_ratio: float = 0.75
    joint_text_ratio: float = 0.4
    joint_media_ratio: float = 0.6875
    scale: float = 2.5  # fixed inverse temperature
    smoothing: float = 0.1
    joint_teacher: bool = False  # the medium alone, too, learns from the pass that sees both

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("text", "media", "joint_text", "joint_media"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"denoising.{name} must not be negative, got {getattr(self, name)}")
            if not 0.0 < getattr(self, f"{name}_ratio") < 1.0:
                raise ValueError(f"denoising.{name}_ratio must be in (0, 1), got {getattr(self, f'{name}_ratio')}")
        if self.joint_teacher and not self.joint:
            raise ValueError("denoising.joint_teacher needs joint_text or joint_media")
        if not self.passes:
            raise ValueError("denoising: every weight is 0; leave it out instead")

    @property
    def joint(self) -> bool:
        """Tell whether text and medium are also seen together."""
        return self.joint_text > 0.0 or self.joint_media > 0.0

    @property
    def passes(self) -> list[tuple[str, ...]]:
        """Return the student's passes, by the terms that each serves."""
        alone: list[tuple[str, ...]] = [(name,) for name in ("text", "media") if getattr(self, name) > 0.0]
        return [*alone, ("joint_text", "joint_media")] if self.joint else alone


STAGE1 = DenoisingConfig()
STAGE2 = DenoisingConfig(text=0.0, media_ratio=0.55, joint_media_ratio=0.45, joint_teacher=True)
STAGE2_TRAINABLE = (r"\baudio\b", r"^decoder\.", r"logit_scale")  # everything else keeps its weights


@dataclass(frozen=True)
class Passes:
    """What the passes of a step give. Keys are the names of the terms."""

    media: Tensor  # (B, D) unit rows
    text: Tensor
    teachers: Mapping[str, TokenSequence]  # features of all tokens
    visible: Mapping[str, TokenSequence]  # the student's features of those it sees
    students: Mapping[str, Tensor]  # (B, L, D) its predictions of the teacher's


def draw_views(
    config: DenoisingConfig, text: TokenSequence, word_starts_BL: Tensor, media: TokenSequence, generator: Generator
) -> dict[str, MaskedView]:
    """Draw what the student sees of each row, by term.

    `word_starts_BL` is True where a token starts a word, without the class token. The last token of a text, its end,
    stays. Patches that the medium's own view shows are masked in the joint one; sounds are masked in spans.
    """
    masks: dict[str, list[Tensor]] = {name: [] for name in ("text", "media", "joint_text", "joint_media")}
    for row, length in enumerate(_lengths(text)):
        starts = word_starts_BL[row, : length - 1].cpu()
        end = torch.zeros(1, dtype=torch.bool)
        alone = mask_words(starts, config.text_ratio, generator)
        if media.modality is Modality.IMAGE:
            joint = mask_tokens(length - 1, config.joint_text_ratio, generator, spared=alone)
        else:
            joint = mask_words(starts, config.joint_text_ratio, generator)
        masks["text"].append(torch.cat([alone, end]))
        masks["joint_text"].append(torch.cat([joint, end]))
    for length in _lengths(media):
        if media.modality is Modality.IMAGE:
            alone = mask_tokens(length, config.media_ratio, generator)
            joint = mask_more(~alone, config.joint_media_ratio, generator)
        else:
            alone = mask_spans(length, config.media_ratio, generator)
            joint = mask_spans(length, config.joint_media_ratio, generator)
        masks["media"].append(alone)
        masks["joint_media"].append(joint)
    device = media.embeddings.device
    return {
        name: MaskedView(visible_places(rows).to(device), masked_places(rows).to(device))
        for name, rows in masks.items()
    }


def pretraining_passes(
    model: OnePeace,
    decoder: Decoder,
    text_features: Any,
    modality: Modality,
    media_features: Any,
    views: Mapping[str, MaskedView],
    config: DenoisingConfig,
    frozen_text: bool = False,
) -> Passes:
    """Return the teacher's and the student's passes; what has weight 0 is not computed.

    Features are what the adapters' `features` give. With `frozen_text` the text alone carries no gradient.
    """
    text: Any = model.adapters[Modality.TEXT]
    media: Any = model.adapters[modality]
    whole_text = text.from_features(text_features)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_text):
        (text_teacher,) = model.features([whole_text])
        text_BD = model.heads[Modality.TEXT](text_teacher)
    whole_media = media.from_features(media_features)
    (media_teacher,) = model.features([whole_media])
    media_BD = model.heads[modality](media_teacher)
    teachers = {"text": text_teacher, "media": media_teacher}
    if config.joint:
        with torch.no_grad():
            teachers["joint_text"], teachers["joint_media"] = model.features([whole_text, whole_media])
        if config.joint_teacher:
            teachers["media"] = teachers["joint_media"]

    visible: dict[str, TokenSequence] = {}
    students: dict[str, Tensor] = {}
    for names in config.passes:
        chosen = []
        for name in names:
            if name.endswith("text"):
                chosen.append(text.visible(text_features, whole_text, views[name].places))
            else:
                chosen.append(media.visible(media_features, whole_media, views[name].places))
        seen = model.features(chosen)
        predictions = decoder(seen, [views[name].places for name in names], [teachers[name].padding for name in names])
        visible |= dict(zip(names, seen, strict=True))
        students |= dict(zip(names, predictions, strict=True))
    return Passes(media_BD, text_BD, teachers, visible, students)


def denoising_terms(
    passes: Passes, views: Mapping[str, MaskedView], config: DenoisingConfig
) -> dict[str, tuple[float, Tensor]]:
    """Return the denoising terms by name: weight and value."""
    return {
        name: (
            getattr(config, name),
            denoising_contrastive_loss(
                student_BLD[:, 1:],
                passes.teachers[name].embeddings[:, 1:],
                views[name].masked[:, 1:],
                passes.teachers[name].padding[:, 1:],
                config.scale,
                config.smoothing,
            ),
        )
        for name, student_BLD in passes.students.items()
    }


def _lengths(sequence: TokenSequence) -> list[int]:
    """Return the tokens of each row, the class token not counted."""
    lengths: list[int] = ((~sequence.padding).sum(dim=1) - 1).tolist()
    return lengths
