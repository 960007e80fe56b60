"""Fine-tuning: the config of a task's model from that of the embedding model that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from encoders.adapter import AdapterConfig
from encoders.image.adapter import PATCH, ImageConfig, PatchConfig
from encoders.modality import Modality
from onepeace.model.block import Block
from onepeace.model.config import ModelConfig

HEAD_ONLY = (r"^head\.",)  # what trains where the trunk is frozen
# What trains where the tokens of the adapters are kept. Position tables and what
# is made of details join in: the fusion encoder reads them.
KEPT_ADAPTERS = (r"^(head|fusion)\.|^adapters\.\w+\.(bias|detail)\.",)


def fine_tuning_config(
    config: ModelConfig,
    modalities: Sequence[Modality],
    pictures: int = 1,
    drop_path: float | None = None,
    image_size: int | None = None,
    frozen_backbones: bool | None = None,
    detail: int | None = None,
    layers: int | None = None,
) -> ModelConfig:
    """Return the config of the model that is fine-tuned, as the official code sets it up.

    Other modalities go, every block gets position tables of its own, two pictures are told apart by type vectors, and
    where `image_size` (pixels a side) is another, so is the grid of the relative positions. `frozen_backbones` says
    whether the networks below the adapters keep their weights. `detail` lets tokens of backbones know their place of
    the input itself, in so many parts a side. `layers` is how many blocks there are: those beyond the model's own
    come behind them. None keeps what the model has. Weights come from `load_start`.

    Raises:
        ValueError: the model lacks a modality, or a value that is refused.
    """
    if layers is not None and layers < config.layers:
        raise ValueError(f"layers must be at least the {config.layers} blocks that the model has, got {layers}")
    if missing := [m for m in modalities if m not in config.adapters]:
        raise ValueError(f"{', '.join(missing)} is to be read, and the model reads {', '.join(config.adapters)} only")
    adapters = {
        m: _adapter(a, pictures, image_size, frozen_backbones, detail)
        for m, a in config.adapters.items()
        if m in modalities
    }
    return replace(
        config,
        adapters=adapters,
        layers=config.layers if layers is None else layers,
        bias_per_layer=config.bias_per_layer or any(a.attention_bias for a in adapters.values()),
        drop_path=config.drop_path if drop_path is None else drop_path,
    )


def begin_as_nothing(block: Block) -> None:
    """Let a new block return its input, in place: the scales of its branches begin at 0 and train.

    This is ReZero (Bachlechner et al., 2020, arXiv:2003.04887). Raises ValueError for a model without such scales.

    >>> from onepeace.model.block import Block
    >>> block = Block(model.folder.config, drop_path=0.0)
    >>> begin_as_nothing(block)
    >>> block.attention_branch.scale.abs().max().item()
    0.0
    """
    for branch in (block.attention_branch, block.feedforward_branch):
        if branch.scale is None:
            raise ValueError("further layers need a model with layer_scale, which lets them begin as nothing")
        nn.init.zeros_(branch.scale)


def _adapter(
    adapter: AdapterConfig, pictures: int, image_size: int | None, frozen: bool | None, detail: int | None
) -> AdapterConfig:
    changes: dict[str, Any] = {}
    if detail is not None and hasattr(adapter, "detail"):
        changes["detail"] = detail
    if frozen is not None and hasattr(adapter, "frozen"):
        changes["frozen"] = frozen
        if hasattr(adapter, "tuned_blocks"):
            changes["tuned_blocks"] = 0
    if pictures == 2:
        changes["type_embedding"] = True
        if isinstance(adapter, PatchConfig):
            changes["second_type_embedding"] = True
    if image_size is not None and isinstance(adapter, ImageConfig):
        changes["preprocess"] = replace(adapter.preprocess, size=image_size)
        if isinstance(adapter, PatchConfig):
            if image_size % PATCH:
                raise ValueError(f"image_size must be a multiple of {PATCH} pixels, got {image_size}")
            changes["bias_grid"] = image_size // PATCH
    return replace(adapter, **changes)
