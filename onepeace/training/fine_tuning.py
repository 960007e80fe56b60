"""Fine-tuning: the config of a task's model from that of the embedding model that it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from encoders.adapter import AdapterConfig
from encoders.image.adapter import PATCH, ImageConfig, PatchConfig
from onepeace.model.config import ModelConfig
from onepeace.model.task_head import TaskConfig

HEAD_ONLY = (r"^head\.",)  # what trains where the trunk is frozen
# What trains where the tokens of the adapters are kept. Their position tables join in: the fusion encoder reads them.
KEPT_ADAPTERS = (r"^(head|fusion)\.|^adapters\.\w+\.bias\.",)


def fine_tuning_config(
    config: ModelConfig, task: TaskConfig, drop_path: float | None = None, image_size: int | None = None
) -> ModelConfig:
    """Return the config for a task's model, as the official code sets it up.

    Modalities that the task does not read go, every block gets position tables of its own, two pictures are told
    apart by type vectors, and where `image_size` (pixels a side) is another, so is the grid of the relative positions.
    None keeps what the model has. Weights come from `load_start`.

    Raises:
        ValueError: the model lacks a modality of the task, or a value that is refused.
    """
    if missing := [m for m in task.modalities if m not in config.adapters]:
        raise ValueError(f"the task reads {', '.join(missing)}, the model {', '.join(config.adapters)} only")
    adapters = {m: _adapter(a, task, image_size) for m, a in config.adapters.items() if m in task.modalities}
    return replace(
        config,
        adapters=adapters,
        bias_per_layer=config.bias_per_layer or any(a.attention_bias for a in adapters.values()),
        drop_path=config.drop_path if drop_path is None else drop_path,
    )


def _adapter(adapter: AdapterConfig, task: TaskConfig, image_size: int | None) -> AdapterConfig:
    changes: dict[str, Any] = {}
    if task.pictures == 2:
        changes["type_embedding"] = True
        if isinstance(adapter, PatchConfig):
            changes["second_type_embedding"] = True
    if image_size is not None and isinstance(adapter, ImageConfig):
        changes["preprocess"] = replace(adapter.preprocess, size=image_size)
        if isinstance(adapter, PatchConfig):
            changes["bias_grid"] = image_size // PATCH
    return replace(adapter, **changes)
