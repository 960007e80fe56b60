"""AdamW's parameter groups and the cosine schedule of ONE-PEACE (Wang et al., 2023, arXiv:2305.11172)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

# Matrices that the official training leaves undecayed, and vectors (three-dimensional there) that it decays.
UNDECAYED = re.compile(r".*\.(text|image)\.position_embedding|decoder\.positions\.(text|audio)")
DECAYED_VECTORS = re.compile(
    r".*\.(type_embedding|second_type_embedding|class_position|mask_token)|decoder\.mask_tokens\.\w+"
)
_BLOCK = re.compile(r"(?:model\.)?(?:fusion\.blocks|adapters\.\w+\.bias\.tables)\.(\d+)(?:\..*)?")
_ADAPTER = re.compile(r"(?:model\.)?adapters\..*")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Raises:
        ValueError: rates, shares or counts outside their ranges.

    >>> OptimizerConfig(lr=1e-3, min_lr=1e-2)
    Traceback (most recent call last):
    ValueError: optimizer: wanted 0 <= min_lr <= lr and lr > 0, got 0.01 and 0.001
    """

    lr: float = 5e-4  # at the end of the warm-up
    min_lr: float = 1e-6  # at the first step and after the last
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    lr_scale: Mapping[str, float] = field(default_factory=dict)  # regular expression of parameter names -> factor
    layer_decay: float = 1.0  # factor of the rate from each block to the one below it; the adapters are lowest
    # Steps in a row whose loss or gradient is not finite, until training stops; each of them changes nothing.
    max_skipped: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0.0 <= self.min_lr <= self.lr or self.lr == 0.0:
            raise ValueError(f"optimizer: wanted 0 <= min_lr <= lr and lr > 0, got {self.min_lr} and {self.lr}")
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"optimizer.warmup is a share of the steps in [0, 1), got {self.warmup}")
        if self.max_skipped < 1:
            raise ValueError(f"optimizer.max_skipped must be at least 1, got {self.max_skipped}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"optimizer.layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.weight_decay < 0.0:
            raise ValueError(f"optimizer.weight_decay must not be negative, got {self.weight_decay}")


def cosine_lr(step: int, steps: int, warmup: int, lr: float, min_lr: float) -> float:
    """Return the learning rate of update `step`, counted from 0: a line up to `lr`, then half a cosine to `min_lr`.

    >>> [round(cosine_lr(step, steps=100, warmup=10, lr=1.0, min_lr=0.0), 2) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return min_lr + step * (lr - min_lr) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_lr + 0.5 * (lr - min_lr) * (1.0 + math.cos(math.pi * progress))


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: not to vectors, biases and the positions of texts and pictures.

    >>> layer = nn.Linear(4, 4)
    >>> is_decayed("layer.weight", layer.weight), is_decayed("layer.bias", layer.bias)
    (True, False)
    """
    if parameter.ndim <= 1 or name.endswith(".bias"):
        return DECAYED_VECTORS.fullmatch(name) is not None
    return UNDECAYED.fullmatch(name) is None


def layer_scale(name: str, layers: int, decay: float) -> float:
    """Return the factor of a parameter's rate that `layer_decay` gives in a model of so many blocks.

    A block's own position table counts with the block; heads, final norms and a decoder keep the whole rate.

    >>> [layer_scale(f"fusion.blocks.{n}.attention.out.weight", layers=2, decay=0.5) for n in (0, 1)]
    [0.25, 0.5]
    >>> layer_scale("heads.text.projection.weight", layers=2, decay=0.5)
    1.0
    """
    block = _BLOCK.fullmatch(name)
    place = int(block[1]) + 1 if block else 0 if _ADAPTER.fullmatch(name) else layers + 1
    return float(decay ** (layers + 1 - place))


def train_only(named: Iterable[tuple[str, nn.Parameter]], patterns: Sequence[str], where: str) -> None:
    """Freeze every parameter that no pattern, a regular expression, fits. What was frozen stays so.

    Raises:
        ValueError: a pattern fits nothing; the message begins with `where`.
    """
    unused = set(patterns)
    for name, parameter in named:
        fitting = [pattern for pattern in patterns if re.search(pattern, name)]
        unused -= set(fitting)
        parameter.requires_grad_(parameter.requires_grad and bool(fitting))
    if unused:
        raise ValueError(f"{where}: no parameter is named like {', '.join(sorted(unused))}")


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups of the parameters that train: one for each factor of the rate, with and without decay.

    Raises:
        ValueError: a pattern of `lr_scale` fits no parameter that trains.

    >>> groups = parameter_groups(nn.Linear(4, 4).named_parameters(), OptimizerConfig(lr=1e-3))
    >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
    [(1, 0.001, 0.05), (1, 0.001, 0.0)]
    """
    named = list(named)
    layers = max((int(block[1]) + 1 for name, _ in named if (block := _BLOCK.fullmatch(name))), default=0)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    unused = set(config.lr_scale)
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        fitting = [pattern for pattern in config.lr_scale if re.search(pattern, name)]
        unused -= set(fitting)
        scale = math.prod(config.lr_scale[pattern] for pattern in fitting)
        scale *= layer_scale(name, layers, config.layer_decay)
        divided = isinstance(parameter, DTensor)  # among processes: no kernel takes such with others
        groups.setdefault((scale, is_decayed(name, parameter), divided), []).append(parameter)
    if unused:
        raise ValueError(f"optimizer.lr_scale: no parameter that trains is named like {', '.join(sorted(unused))}")
    return [
        {"params": parameters, "lr": config.lr * scale, "weight_decay": config.weight_decay * decayed}
        for (scale, decayed, _), parameters in groups.items()
    ]


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, steps: int, fused: bool = True
) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over the parameters that train, and its schedule over `steps` updates.

    `fused` is several times faster, but takes the scaling of float16 gradients upon itself.

    >>> optimizer, schedule = build_optimizer(nn.Linear(4, 4).named_parameters(), OptimizerConfig(lr=1e-3), steps=100)
    >>> round(schedule.get_last_lr()[0], 6)  # of the first step
    1e-06
    """
    optimizer = AdamW(parameter_groups(named, config), betas=config.betas, eps=config.eps, fused=fused)
    warmup = int(config.warmup * steps)

    def factor(step: int) -> float:
        return cosine_lr(step, steps, warmup, config.lr, config.min_lr) / config.lr

    return optimizer, LambdaLR(optimizer, factor)
