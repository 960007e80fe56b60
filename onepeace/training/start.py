"""Starting a model from a checkpoint of another: what fits is loaded, and what became of the rest is said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from encoders.image.adapter import GridAdapter, resize_positions
from encoders.position_bias import PositionBias2d, grid_of_table, resize_table_2d

_TABLE = re.compile(r"(.*\.bias\.tables\.)\d+")


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, each in one list.

    >>> print(LoadReport(loaded=("a", "b"), created=(), initial=("c",), dropped=()))
    2 loaded; 1 left at their start
    """

    loaded: tuple[str, ...]
    created: tuple[str, ...]  # a block's own position table, from the one that all blocks shared
    resized: tuple[str, ...]  # position tables, from those of smaller pictures
    initial: tuple[str, ...]  # the model's alone: left at their initial values
    dropped: tuple[str, ...]  # the checkpoint's alone

    def __str__(self) -> str:
        """Return one line."""
        parts = {
            "loaded": self.loaded,
            "copied from shared tables": self.created,
            "resized for larger pictures": self.resized,
            "left at their start": self.initial,
            "not used": self.dropped,
        }
        return "; ".join(f"{len(names)} {what}" for what, names in parts.items() if names)


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of what all states have: a model soup (Wortsman et al., 2022, arXiv:2203.05482).

    Runs from the same pretrained parts lie close enough for their mean to be better than each of them.

    Raises:
        ValueError: a tensor has another shape in another state.

    >>> mean_weights([{"w": torch.tensor([1.0]), "only": torch.zeros(1)}, {"w": torch.tensor([3.0])}])
    {'w': tensor([2.])}
    """
    first, *others = states
    shared = [name for name in first if all(name in other for other in others)]
    for name in shared:
        if any(other[name].shape != first[name].shape for other in others):
            raise ValueError(f"{name} has different shapes in the checkpoints to average: they need the same sizes")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(first[name].dtype)
        for name in shared
    }


def load_start(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load what `state` and `model` have in common, in place, as the official code does for fine-tuning.

    A block's own position table is copied from the shared one, and tables of pictures grow to the model's grid: the
    relative ones by a spline, the absolute ones bicubically.

    Raises:
        ValueError: nothing fits, or a tensor has another shape than the model's of that name.

    >>> layer = nn.Linear(2, 2)
    >>> print(load_start(layer, {"weight": torch.eye(2), "of another part": torch.zeros(1)}))
    1 loaded; 1 left at their start; 1 not used
    """
    own = model.state_dict()
    taken: dict[str, Tensor] = {name: state[name] for name in own if name in state}
    if not taken:
        raise ValueError("the checkpoint has no tensor that this model has: is it of another kind of model?")
    created = []
    for name in own.keys() - taken.keys():
        table = _TABLE.fullmatch(name)
        if table and (first := f"{table[1]}0") in state:
            taken[name] = state[first]
            created.append(name)
    resized = []
    for name, grow in _growing(model):
        if name in taken and len(taken[name]) < len(own[name]):
            taken[name] = grow(taken[name])
            resized.append(name)
    unlike = [name for name, tensor in taken.items() if tensor.shape != own[name].shape]
    if unlike:
        name = min(unlike)
        raise ValueError(
            f"{name} has shape {tuple(taken[name].shape)} in the checkpoint and {tuple(own[name].shape)} in the model "
            f"({len(unlike)} such tensors): the two need the same sizes"
        )
    model.load_state_dict(taken, strict=False)
    return LoadReport(
        tuple(name for name in taken if name not in {*created, *resized}),
        tuple(sorted(created)),
        tuple(sorted(set(resized) - set(created))),
        tuple(sorted(own.keys() - taken.keys())),
        tuple(sorted(state.keys() - own.keys())),
    )


def _growing(model: nn.Module) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield the names of the position tables of pictures, with what brings a smaller one to the model's grid."""
    for prefix, module in model.named_modules():
        if isinstance(module, PositionBias2d):
            for number in range(len(module.tables)):
                yield f"{prefix}.tables.{number}", partial(_grown_table, grid=module.grid)
        elif isinstance(module, GridAdapter):
            side = math.isqrt(len(module.position_embedding) - 1)
            yield f"{prefix}.position_embedding", partial(resize_positions, height=side, width=side)


def _grown_table(table_RH: Tensor, grid: int) -> Tensor:
    return resize_table_2d(table_RH, grid_of_table(len(table_RH)), grid)
