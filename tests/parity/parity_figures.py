"""Reading the reference figures of the official model."""

from __future__ import annotations

import dataclasses
import io
import lzma
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from encoders.modality import Modality
from onepeace.convert import tensor_shapes
from onepeace.model import OnePeace, TaskModel
from onepeace.official_config import official_config, official_task
from onepeace.official_names import rename

Figures = dict[str, Tensor]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"  # the subset in the repository


def read_figures(path: Path) -> Figures:
    """Return the tensors of a figures file; a suffix `.q32` or `.q4096` means whole numbers over that."""
    figures = {}
    for name, tensor in load_file(path).items():
        stem, _, suffix = name.rpartition(".")
        scale = {"q32": 32, "q4096": 4096}.get(suffix)
        figures[stem if scale else name] = tensor.float() / scale if scale else tensor
    return figures


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return an xz-compressed official-layout checkpoint."""
    state: dict[str, Any] = torch.load(io.BytesIO(lzma.decompress(path.read_bytes())), weights_only=True)
    return state


def build(path: Path, **changes: Any) -> OnePeace:
    """Return our model with an official checkpoint's weights; `changes` go to its config."""
    state = read_checkpoint(path)
    config = dataclasses.replace(official_config(state["cfg"], state["model"]), **changes)
    shapes = tensor_shapes(config)
    tensors = rename(state["model"])
    model = OnePeace(config)
    model.load_state_dict({name: tensor.view(shapes[name].shape) for name, tensor in tensors.items()})
    return model.eval()


def build_task(path: Path, **changes: Any) -> TaskModel:
    """Return our task model with an official fine-tuned checkpoint's weights; `changes` go to its config."""
    state = read_checkpoint(path)
    task = official_task(state["cfg"], state["model"])
    assert task is not None
    config = dataclasses.replace(official_config(state["cfg"], state["model"]), **changes)
    model = TaskModel(config, task)
    shapes = model.state_dict()
    model.load_state_dict({name: t.view(shapes[name].shape) for name, t in rename(state["model"]).items()})
    return model.eval()


def task_inputs(figures: Figures) -> tuple[dict[Modality, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return what a task model takes, from a task's figures: the inputs of each modality, and second pictures."""
    inputs: dict[Modality, tuple[Tensor, ...]] = {}
    if "src_tokens" in figures:
        inputs[Modality.TEXT] = (figures["src_tokens"],)
    if "src_images" in figures:
        inputs[Modality.IMAGE] = (figures["src_images"],)
    if "src_audios" in figures:
        frames_B = (~figures["audio_padding_masks"][:, 1:]).sum(1)
        inputs[Modality.AUDIO] = (figures["src_audios"], 400 + 320 * (frames_B - 1))  # samples that give so many frames
    return inputs, (figures["src_images_2"],) if "src_images_2" in figures else ()
