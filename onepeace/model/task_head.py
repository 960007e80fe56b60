"""The head of a task: features of one or two passes in, logits out; and the config that says what a task is.

B: batch, L: tokens, D: width, H: heads, K: width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import trunc_normal
from encoders.config import parse_config
from encoders.dropout import Dropout
from encoders.modality import Modality
from encoders.tokens import TokenSequence

TaskKind = Literal["classify", "tag", "choose", "ground", "detect", "locate"]
CORNERS = 4  # of a box: left, top, right, bottom
# Kinds that find any number of things, and in what: `set_head.py`.
SEARCHED: dict[TaskKind, Modality] = {"detect": Modality.IMAGE, "locate": Modality.AUDIO}


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a task reads and answers. The defaults are the official ones.

    Kinds: `classify` finds the one right label, `tag` any number of them, `choose` the one right text among several
    about one medium (each text gets one logit), `ground` the box that a text speaks of, `detect` all boxes in a
    picture that it fits, and `locate` all spans of a sound.

    >>> TaskConfig(kind="classify", modalities=("text", "image"), outputs=2, pictures=2).pooled_modality
    <Modality.TEXT: 'text'>
    >>> TaskConfig(kind="detect", modalities=("text", "image"), outputs=8).pooled_modality
    <Modality.IMAGE: 'image'>
    """

    kind: TaskKind
    modalities: tuple[Modality, ...]  # read together, in this order
    outputs: int  # logits; of `detect` and `locate` slots, more than there ever is to find
    pooled: Modality | None = None  # whose tokens the head reads; None: the first modality's, or what is searched
    pictures: int = 1  # in one input; 2: each is read with the text, and the head sees both passes
    choices: int = 1  # texts for one medium
    attention_pooling: bool = True  # False: the class token's feature alone
    pooler: bool = False  # a further layer with tanh behind the pooling
    pooler_dropout: float = 0.0
    hidden_ratio: float = 2.0  # width of the classifier's hidden layer, in widths of a token
    labels: tuple[str, ...] = ()  # names of the outputs, where they have any
    decoder_layers: int = 2  # of the slots of `detect` and `locate`; 0: each token is a slot, whatever `outputs` says

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        _check_kind(self.kind)
        object.__setattr__(self, "modalities", tuple(_modality(m) for m in self.modalities))
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"task.modalities must be different ones, at least one, got {list(self.modalities)}")
        if self.pooled is not None:
            object.__setattr__(self, "pooled", _modality(self.pooled))
            if self.pooled not in self.modalities:
                raise ValueError(f"task.pooled must be one of task.modalities, got {self.pooled}")
        if self.outputs < 1:
            raise ValueError(f"task.outputs must be at least 1, got {self.outputs}")
        if self.hidden_ratio <= 0.0:
            raise ValueError(f"task.hidden_ratio must be positive, got {self.hidden_ratio}")
        if not 0.0 <= self.pooler_dropout < 1.0:
            raise ValueError(f"task.pooler_dropout must be in [0, 1), got {self.pooler_dropout}")
        if self.pictures not in (1, 2) or (self.pictures == 2 and self.modalities != (Modality.TEXT, Modality.IMAGE)):
            raise ValueError("task.pictures is 1, or 2 where task.modalities are text and image")
        if (self.choices > 1) != (self.kind == "choose"):
            raise ValueError(f"task.choices counts the texts of a task that chooses, got {self.choices}")
        if self.kind == "choose" and (self.outputs != 1 or self.modalities[0] != Modality.TEXT):
            raise ValueError("a task that chooses has one output, and text is its first modality")
        if self.kind == "ground" and (self.outputs != CORNERS or Modality.IMAGE not in self.modalities):
            raise ValueError(f"a task that grounds reads an image and has {CORNERS} outputs, got {self.outputs}")
        if self.kind in SEARCHED and SEARCHED[self.kind] not in self.modalities:
            raise ValueError(f"a task that {self.kind}s reads {SEARCHED[self.kind]}, got {', '.join(self.modalities)}")
        if self.kind in SEARCHED and self.pooled_modality != SEARCHED[self.kind]:
            raise ValueError(f"a task that {self.kind}s searches {SEARCHED[self.kind]}: task.pooled must be that")
        if self.kind in SEARCHED and self.pictures != 1:
            raise ValueError(f"a task that {self.kind}s reads one picture an input, got {self.pictures}")
        if self.decoder_layers < 0:
            raise ValueError(f"task.decoder_layers must not be negative, got {self.decoder_layers}")
        if self.labels and (self.kind not in ("classify", "tag") or len(self.labels) != self.outputs):
            raise ValueError(f"task.labels names {len(self.labels)} outputs of {self.outputs}")

    @property
    def pooled_modality(self) -> Modality:
        """The modality whose tokens the head reads."""
        return self.pooled or SEARCHED.get(self.kind) or self.modalities[0]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskConfig:
        """Return the config that plain data describes.

        Raises:
            ValueError: an unknown key or modality, or a value that is refused; the message names it.
        """
        values = dict(data)
        if "kind" in values:
            _check_kind(values["kind"])
        if isinstance(values.get("modalities"), list | tuple):
            values["modalities"] = tuple(_modality(m) for m in values["modalities"])
        if isinstance(values.get("pooled"), str):
            values["pooled"] = _modality(values["pooled"])
        if isinstance(values.get("hidden_ratio"), int):
            values["hidden_ratio"] = float(values["hidden_ratio"])
        return parse_config(cls, values, "task")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal config."""
        plain = asdict(self)
        plain["modalities"] = [str(m) for m in self.modalities]
        plain["pooled"] = None if self.pooled is None else str(self.pooled)
        return {f.name: list(plain[f.name]) if f.name == "labels" else plain[f.name] for f in fields(self)}


def choice_text(question: str, choice: str) -> str:
    """Return the text that a task which chooses reads of one choice, as the official code words it.

    >>> choice_text("What barks?", "a dog")
    'What barks? answer: a dog'
    """
    return f"{question} answer: {choice}" if question else choice


def _check_kind(kind: str) -> None:
    if kind not in get_args(TaskKind):
        raise ValueError(f"task.kind must be one of {', '.join(get_args(TaskKind))}, got {kind!r}")


def _modality(name: str) -> Modality:
    if name not in set(Modality):
        raise ValueError(f"task: unknown modality {name}; known: {', '.join(Modality)}")
    return Modality(name)


class AttentionPooling(nn.Module):
    """One learned query a head asks all tokens but the class token (CAiT, Touvron et al., 2021, arXiv:2103.17239).

    Unlike self-attention it does not divide the logits by sqrt(K).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(trunc_normal(torch.empty(heads, width // heads)))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, padding_BL: Tensor) -> Tensor:
        """Return (B, D); padded tokens are not asked. A row of padding alone gives the mean, not NaN."""
        key_BLHK, value_BLHK = (linear(x_BLD).unflatten(-1, self.query.shape) for linear in (self.key, self.value))
        logits_BHL = torch.einsum("hk,blhk->bhl", self.query, key_BLHK).float()
        logits_BHL = logits_BHL.masked_fill(padding_BL[:, None], torch.finfo(torch.float32).min)
        weights_BHL = logits_BHL.softmax(dim=-1).to(value_BLHK.dtype)
        out: Tensor = self.output(torch.einsum("bhl,blhk->bhk", weights_BHL, value_BLHK).flatten(1))
        return out


class Pooler(nn.Module):
    """Dropout, linear, tanh, dropout: BERT's pooler (Devlin et al., 2019, arXiv:1810.04805), to answer questions."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return (B, D)."""
        out: Tensor = self.dropout(self.linear(self.dropout(x_BD)).tanh())
        return out


class Classifier(nn.Module):
    """Linear, LayerNorm, GELU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs)."""
        out: Tensor = self.output(F.gelu(self.norm(self.hidden(x))))
        return out


class TaskHead(nn.Module):
    """Pools each pass, puts two of them side by side, and classifies (Wang et al., 2023, arXiv:2305.11172, 3.3)."""

    def __init__(self, width: int, heads: int, config: TaskConfig) -> None:
        super().__init__()
        self.pooling = AttentionPooling(width, heads) if config.attention_pooling else None
        self.norm = nn.LayerNorm(width)
        if not config.attention_pooling:  # official checkpoints hold it even so, and nothing reads it
            self.norm.requires_grad_(False)
        self.pooler = Pooler(width, config.pooler_dropout) if config.pooler else None
        self.classifier = Classifier(config.pictures * width, int(width * config.hidden_ratio), config.outputs)

    def pool(self, features: TokenSequence) -> Tensor:
        """Return what a pass says, (B, D)."""
        if self.pooling is None:
            x_BD = features.embeddings[:, 0]
        else:
            x_BD = self.norm(self.pooling(features.embeddings[:, 1:], features.padding[:, 1:]))
        return x_BD if self.pooler is None else self.pooler(x_BD)

    def forward(self, passes: Sequence[TokenSequence]) -> Tensor:
        """Return logits, (B, outputs)."""
        out: Tensor = self.classifier(torch.cat([self.pool(features) for features in passes], dim=1))
        return out
