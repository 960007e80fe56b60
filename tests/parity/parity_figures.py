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

from onepeace.convert import official_config, rename, tensor_shapes
from onepeace.model import OnePeace

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
