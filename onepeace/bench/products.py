"""What a model's forward pass cannot beat: the same matrix products with nothing between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from encoders.modality import Modality
from onepeace.inference import EncodingModel
from onepeace.model.linear import DenseLinear, PackedLinear


def products_alone(encoder: EncodingModel, modality: Modality, tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Return a run of the Transformer's linear maps, in their order, on random rows.

    `encoder` must not compute in int8, whose products read another form of rows.
    """
    calls: list[Callable[[], Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = torch.randn(args[0].shape).to(args[0])
        calls.append(lambda: module(rows))

    maps = [module for module in encoder.transformer() if isinstance(module, PackedLinear | DenseLinear)]
    hooks = [module.register_forward_pre_hook(note) for module in maps]
    try:
        encoder.embed(modality, *tensors)
    finally:
        for hook in hooks:
            hook.remove()

    def run() -> None:
        for call in calls:
            call()

    return run
