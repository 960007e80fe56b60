"""The two pretraining stages of ONE-PEACE as terms of a loss (Wang et al., 2023, arXiv:2305.11172, section 3.2).

Pairs of a medium and a text are embedded and contrasted; and a student that sees a part of the tokens predicts, through
the decoder, what the same network makes of all of them. There is no averaged copy: the teacher is this very model's
forward pass, which the contrastive loss needs anyway, and adapters compute the contents of tokens once for all passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from encoders.tokens import Modality, TokenSequence
from onepeace.model.decoder import Decoder, DecoderConfig
from onepeace.model.onepeace import OnePeace
from onepeace.training.gather import gather_rows
from onepeace.training.losses import contrastive_loss, denoising_contrastive_loss


@dataclass(frozen=True)
class MaskedView:
    """Which tokens of one modality the student sees. B: batch, L: tokens with the class token, P: visible ones."""

    places: Tensor  # (B, P) int64, the class token's 0 first, -1: padding
    masked: Tensor  # (B, L) bool, True where the prediction counts


@dataclass(frozen=True)
class MaskedPairs:
    """Pairs of one medium and texts, with the student's views of each alone and of both together."""

    modality: Modality  # of the medium
    media: tuple[Tensor, ...]  # arguments of its adapter
    ids: Tensor  # (B, N) of the texts
    views: Mapping[str, MaskedView]  # of "text" and "media" alone, "joint_text" and "joint_media" together


@dataclass(frozen=True, kw_only=True)
class PretrainingLoss:
    """Weights of the terms. The defaults are stage 1 (vision-language); `STAGE2` is audio-language."""

    contrastive: float = 1.0
    text: float = 0.5  # denoising terms: text alone,
    media: float = 1.0  # the medium alone,
    joint_text: float = 0.5  # and the parts of both together
    joint_media: float = 0.5
    scale: float = 2.5  # fixed inverse temperature of the denoising terms
    smoothing: float = 0.1  # of the same
    frozen_text: bool = False  # texts only serve as keys
    joint_teacher: bool = False  # the medium alone, too, learns from the pass that sees both

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("contrastive", "text", "media", "joint_text", "joint_media"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"pretraining.{name} must not be negative, got {getattr(self, name)}")
        if self.frozen_text and self.text:
            raise ValueError("pretraining.text must be 0 where the text side is frozen")
        if self.joint_teacher and not self.joint:
            raise ValueError("pretraining.joint_teacher needs joint_text or joint_media")

    @property
    def joint(self) -> bool:
        """Tell whether text and medium are also seen together."""
        return self.joint_text > 0.0 or self.joint_media > 0.0

    @property
    def students(self) -> list[tuple[str, ...]]:
        """Return the student's passes, by the terms that each serves."""
        alone: list[tuple[str, ...]] = [(name,) for name in ("text", "media") if getattr(self, name) > 0.0]
        return [*alone, ("joint_text", "joint_media")] if self.joint else alone


STAGE1 = PretrainingLoss()
STAGE2 = PretrainingLoss(text=0.0, frozen_text=True, joint_teacher=True)
STAGE2_TRAINABLE = (r"\baudio\b", r"^decoder\.", r"logit_scale")  # everything else keeps its weights


@dataclass(frozen=True)
class Passes:
    """What the passes of a step give. Keys are the names of the denoising terms."""

    media: Tensor  # (B, D) unit rows
    text: Tensor
    teachers: Mapping[str, TokenSequence]  # features of all tokens
    visible: Mapping[str, TokenSequence]  # the student's features of those it sees
    students: Mapping[str, Tensor]  # (B, L, D) its predictions of the teacher's


class PretrainingModel(nn.Module):
    """The model and the decoder that its pretraining needs."""

    def __init__(self, model: OnePeace, decoder: DecoderConfig) -> None:
        super().__init__()
        self.model = model
        self.decoder = Decoder(decoder, model.config)

    def forward(self, pairs: MaskedPairs, config: PretrainingLoss) -> dict[str, tuple[float, Tensor]]:
        """Return the loss terms of a batch by name: weight and value."""
        passes = self.passes(pairs, config)
        terms = {"contrastive": (config.contrastive, self._contrastive(passes.media, passes.text))}
        for name, student_BLD in passes.students.items():
            teacher, view = passes.teachers[name], pairs.views[name]
            value = denoising_contrastive_loss(
                student_BLD[:, 1:],
                teacher.embeddings[:, 1:],
                view.masked[:, 1:],
                teacher.padding[:, 1:],
                config.scale,
                config.smoothing,
            )
            terms[name] = (getattr(config, name), value)
        return terms

    def passes(self, pairs: MaskedPairs, config: PretrainingLoss) -> Passes:
        """Return the teacher's and the student's passes; a term whose weight is 0 is not computed."""
        text: Any = self.model.adapters[Modality.TEXT]
        media: Any = self.model.adapters[pairs.modality]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.frozen_text):
            text_features = text.features(pairs.ids)
            whole_text = text.from_features(text_features)
            (text_teacher,) = self.model.features([whole_text])
            text_BD = self.model.heads[Modality.TEXT](text_teacher)
        media_features = media.features(*pairs.media)
        whole_media = media.from_features(media_features)
        (media_teacher,) = self.model.features([whole_media])
        media_BD = self.model.heads[pairs.modality](media_teacher)
        teachers = {"text": text_teacher, "media": media_teacher}
        if config.joint:
            with torch.no_grad():
                teachers["joint_text"], teachers["joint_media"] = self.model.features([whole_text, whole_media])
            if config.joint_teacher:
                teachers["media"] = teachers["joint_media"]

        visible: dict[str, TokenSequence] = {}
        students: dict[str, Tensor] = {}
        for names in config.students:
            chosen = []
            for name in names:
                adapter, features = (text, text_features) if name.endswith("text") else (media, media_features)
                chosen.append(adapter.visible(features, pairs.views[name].places))
            seen = self.model.features(chosen)
            predictions = self.decoder(
                seen, [pairs.views[name].places for name in names], [teachers[name].padding for name in names]
            )
            visible |= dict(zip(names, seen, strict=True))
            students |= dict(zip(names, predictions, strict=True))
        return Passes(media_BD, text_BD, teachers, visible, students)

    def _contrastive(self, media_BD: Tensor, text_BD: Tensor) -> Tensor:
        scale = self.model.logit_scale()
        first = len(media_BD) * (distributed.get_rank() if distributed.is_initialized() else 0)
        to_text = contrastive_loss(media_BD, gather_rows(text_BD), scale, first)
        to_media = contrastive_loss(text_BD, gather_rows(media_BD), scale, first)
        return (to_text + to_media) / 2
