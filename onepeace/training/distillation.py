"""Learning from frozen teachers: what they say of every row, computed once, and the losses that bring a model to it.

A teacher sees each medium plain, whatever the model sees of it. B: batch, D: the model's width, F: the teacher's, C:
its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.media import open_audio, open_image
from encoders.modality import Modality
from encoders.teachers import Teacher, TeacherConfig
from onepeace.manifest import Shards
from onepeace.training.features import Features, build_features, cache_key
from onepeace.training.losses import cosine_distillation, relational_distillation, smooth_l1_distillation
from onepeace.training.rows import Row
from onepeace.training.texts import LabelConfig, fill, label_names


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """A teacher and how it is learned from.

    `cosine` and `smooth_l1` bring the model's vectors, through a linear map that stays behind, to the teacher's
    features; `relational` brings their similarities within a batch to the teacher's; `labels` makes media match the
    texts of the classes that the teacher sees in them, each by its probability.
    """

    teacher: TeacherConfig
    kind: Literal["cosine", "smooth_l1", "relational", "labels"]
    weight: float = 1.0
    temperature: float = 0.1  # relational: of the similarities
    names: Path | None = None  # labels: CSV with a column `display_name`, one row a class; None: ImageNet-1k's
    templates: tuple[str, ...] = ("{}",)  # labels: what is said of a class
    articles: bool = False  # labels: say it with "a" or "an" in front of the name, too
    exclude: tuple[str, ...] = ()  # labels: names of classes that are never said
    top: int = 5  # labels: how many of a row's likeliest classes count

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.weight <= 0.0 or self.temperature <= 0.0:
            raise ValueError(f"distillations: weight and temperature of {self.teacher.title} must be positive")
        if self.top < 1:
            raise ValueError(f"distillations.top must be at least 1, got {self.top}")
        if unfilled := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"distillations.templates need {{}} for the name, got {unfilled[0]!r}")

    @property
    def title(self) -> str:
        """Return what logs call the term."""
        return f"{self.teacher.title}_{self.kind}"


class Distillation(nn.Module):
    """The loss of one teacher, with the map that it needs where widths may differ."""

    def __init__(self, config: DistillationConfig, teacher: Teacher, width: int) -> None:
        super().__init__()
        self.config = config
        self.modality = teacher.modality
        if config.kind == "labels":
            if not teacher.classes:
                raise ValueError(
                    f"distillations: {config.teacher.title} knows no classes; use another kind than labels"
                )
            names = label_names(LabelConfig(names=config.names))
            if len(names) != teacher.classes:
                raise ValueError(
                    f"distillations: {config.teacher.title} knows {teacher.classes} classes, names lists {len(names)}"
                )
            if unknown := set(config.exclude) - set(names):
                raise ValueError(f"distillations.exclude: no class is named {', '.join(sorted(unknown))}")
            self.class_texts = [fill(config.templates, name, config.articles) for name in names]
            self.said = torch.tensor([name not in config.exclude for name in names])
        mapped = config.kind in ("cosine", "smooth_l1")
        self.projection = nn.Linear(width, teacher.width) if mapped else None

    def forward(self, student_BD: Tensor, teacher_BF: Tensor) -> Tensor:
        """Return the loss against the teacher's features; not for labels, whose loss needs texts."""
        if self.config.kind == "relational":
            return relational_distillation(student_BD, teacher_BF, self.config.temperature)
        assert self.projection is not None
        mapped_BF = self.projection(student_BD)
        if self.config.kind == "smooth_l1":
            return smooth_l1_distillation(mapped_BF, teacher_BF)
        return cosine_distillation(F.normalize(mapped_BF.float(), dim=-1), F.normalize(teacher_BF.float(), dim=-1))

    def likeliest(self, probabilities_BC: Tensor) -> Tensor:
        """Return the probabilities of the `top` classes that are said, rows adding up to one, the others 0.

        A row whose teacher sees nothing that is said is 0 throughout, and has no loss.
        """
        said_BC = probabilities_BC.float() * self.said
        values_BK, classes_BK = said_BC.topk(min(self.config.top, said_BC.shape[1]), dim=1)
        values_BK = values_BK / values_BK.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return torch.zeros_like(said_BC).scatter(1, classes_BK, values_BK)


def media_lessons(
    teacher: Teacher, key: str, title: str, rows: Sequence[Row], shards: Shards, folder: Path, device: torch.device
) -> Features:
    """Return what a teacher says of the media of some rows, from the cache in `folder` or computed now.

    An item is (1, F + C): features, then class probabilities. `key` stands for the teacher's weights.
    """
    teacher.to(device)

    def read(item: int) -> Tensor:
        return teacher.prepare(_open(teacher, shards.read(rows[item].media)))

    @torch.inference_mode()
    def encode(items: list[Tensor]) -> list[Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            features_BF, probabilities_BC = teacher([item.to(device) for item in items])
        if probabilities_BC is not None:
            features_BF = torch.cat([features_BF, probabilities_BC], dim=1)
        return list(features_BF.unsqueeze(1))

    parts = {"teacher": key, "rows": [row.media for row in rows]}
    return build_features(folder / f"{title}-{cache_key(parts)}", len(rows), read, encode, title=title)


def _open(teacher: Teacher, data: bytes) -> Any:
    return open_image(data) if teacher.modality is Modality.IMAGE else open_audio(data, teacher.sample_rate)


def lesson_rows(features: Features, distillation: Distillation, width: int) -> Tensor:
    """Return one target a row, float16: (rows, F), or (rows, C) for labels; rows that cannot be read are 0.

    `width` is F.
    """
    labels = distillation.config.kind == "labels"
    values_NX = torch.from_numpy(np.array(features.values[:, width:] if labels else features.values[:, :width]))
    if labels:
        values_NX = torch.cat([distillation.likeliest(part).half() for part in values_NX.split(4096)])
    rows_RX = torch.zeros(len(features), values_NX.shape[1], dtype=torch.float16)
    rows_RX[torch.from_numpy(features.readable)] = values_NX
    return rows_RX
