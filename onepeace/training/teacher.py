"""A teacher for pairs: two small heads on frozen features, trained in a minute, whose vectors the model distils.

The picture head reads the backbone's pooled features, the text head a sentence encoder's vectors. B: batch, D: width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from onepeace.training.losses import positives
from onepeace.training.optim import cosine_lr

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The heads and their training."""

    sources: tuple[str, ...] = ("flickr8k",)  # of the data's picture stream
    hidden: int = 1024
    dropout: float = 0.1
    epochs: int = 60
    batch_size: int = 500
    lr: float = 1e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("hidden", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} must be positive, got {getattr(self, name)}")


class Head(nn.Module):
    """A linear map and a perceptron, added up and brought to length one."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, elementwise_affine=False)
        self.linear = nn.Linear(inputs, outputs)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(inputs),
            nn.Dropout(dropout),
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return (B, D) unit rows."""
        return F.normalize(self.perceptron(x_BF) + self.linear(self.norm(x_BF)), dim=-1)


class PairTeacher(nn.Module):
    """Both heads; gives vectors for every picture and text, trained on or not."""

    def __init__(self, media_width: int, text_width: int, width: int, config: TeacherConfig) -> None:
        super().__init__()
        self.media = Head(media_width, config.hidden, width, config.dropout)
        self.text = Head(text_width, config.hidden, width, config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self, media_BF: Tensor, text_BF: Tensor, concept_B: Tensor) -> Tensor:
        """Return the symmetric InfoNCE of a batch; rows of one concept match."""
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        logits_BB = scale * self.media(media_BF) @ self.text(text_BF).T
        target_BB = positives(concept_B, concept_B)
        return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2

    @torch.no_grad()
    def vectors(self, head: Head, features: Tensor) -> Tensor:
        """Return a head's vectors for many rows, float16."""
        return torch.cat([head(part.float()).half() for part in features.split(4096)])


def train_teacher(
    config: TeacherConfig,
    views: Sequence[Tensor],
    texts_ND: Tensor,
    text_numbers: Sequence[Sequence[int]],
    concepts: Sequence[int],
    width: int,
    seed: int,
) -> PairTeacher:
    """Train and return the heads.

    `views` are pooled features (rows, F) of each view, `text_numbers` the rows of `texts_ND` that fit each picture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = PairTeacher(views[0].shape[1], texts_ND.shape[1], width, config)
        optimizer = torch.optim.AdamW(teacher.parameters(), weight_decay=config.weight_decay)
        rows = len(text_numbers)
        batch_size = min(config.batch_size, rows)
        steps = config.epochs * (rows // batch_size)
        stacked = torch.stack(list(views))  # (views, rows, F) float16
        concept_R = torch.tensor(concepts)
        order = torch.empty(0, dtype=torch.long)
        for step in tqdm(range(steps), desc="teacher", unit="step", mininterval=1.0):
            if len(order) < batch_size:
                order = torch.randperm(rows)
            members, order = order[:batch_size], order[batch_size:]
            view_B = torch.randint(len(views), (batch_size,))
            chosen = [text_numbers[row][int(torch.randint(len(text_numbers[row]), ()))] for row in members.tolist()]
            loss = teacher.loss(stacked[view_B, members].float(), texts_ND[chosen].float(), concept_R[members])
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(step, steps, min(50, steps // 2), config.lr, 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return teacher.eval().requires_grad_(False)
