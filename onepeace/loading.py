"""Opening a model folder as what it holds: a model that embeds, or one that answers a task's questions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

import torch

from onepeace.checkpoint import ModelFolder, open_folder
from onepeace.embedder import Embedder
from onepeace.inference import EncodingModel, best_dtype
from onepeace.memory import bound_kernel_caches
from onepeace.predict.predictor import TaskPredictor
from onepeace.reader import embedding_folder, model_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@overload
def load(
    model: Literal["onepeace-tiny"] = "onepeace-tiny",
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,
) -> Embedder: ...
@overload
def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,
) -> Embedder | TaskPredictor: ...
def load(
    model: str | Path = "onepeace-tiny",
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,  # noqa: A002 - as everybody names it
) -> Embedder | TaskPredictor:
    """Load a model: one that ships with the package by name, or an export folder by path.

    `device` is "auto" (a CUDA GPU where there is one, else the CPU) or a torch device name. `dtype` is what the model
    computes in: "float32", "bfloat16", "int8" (8-bit products in the Transformer: fastest on a CPU, vectors a little
    off), or "auto": bfloat16 where the processor multiplies it natively, else float32. `compile` hands the
    Transformer to torch.compile, which takes a minute for every new shape of batch, and a C++ compiler on a CPU.

    The folder of a model that was trained for a task gives its `TaskPredictor`, with `predict`, which computes in
    float32 whatever `dtype` says. Where a type checker wants to know which it is: `load_embedder`, `load_task`.

    >>> load("onepeace-tiny", dtype="float32").dimension
    512

    Raises:
        CheckpointError: no such model, or a folder that cannot be read.
        ValueError: no such type or device, no such type on this device, or int8 that is to be compiled.
    """
    opened = open_folder(model_folder(model))
    if opened.task is None:
        return _embedder(opened, device, dtype, compile)
    return TaskPredictor(opened, _device(device))


def load_embedder(
    model: str | Path = "onepeace-tiny",
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,  # noqa: A002 - as everybody names it
) -> Embedder:
    """Load a model that embeds, as `load` does, and nothing else.

    Raises:
        CheckpointError: no such model, a folder that cannot be read, or one of a task's model.
        ValueError: as `load`.

    >>> load_embedder("onepeace-tiny").dimension
    512
    """
    return _embedder(embedding_folder(model), device, dtype, compile)


def load_task(model: str | Path, *, device: str = "auto") -> TaskPredictor:
    """Load a model that answers a task's questions, from its export folder. It computes in float32.

    Raises:
        CheckpointError: no such model, a folder that cannot be read, or one of a model that embeds.
        ValueError: no such device.

    >>> load_task("onepeace-tiny")
    Traceback (most recent call last):
    CheckpointError: .../onepeace-tiny holds a model that embeds, and no task's head: load it with ...load_embedder
    """
    return TaskPredictor(open_folder(model_folder(model)), _device(device))


def _embedder(opened: ModelFolder, device: str, dtype: str | torch.dtype, compiled: bool) -> Embedder:
    place = _device(device)
    wanted = best_dtype(place) if dtype == "auto" else DTYPES.get(str(dtype).removeprefix("torch."))
    if wanted is None:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if wanted is torch.int8 and place.type != "cpu":
        raise ValueError(f"dtype 'int8' runs on a CPU only, not on {device}: choose bfloat16")
    return Embedder(EncodingModel(opened.model().to(place), wanted, compiled), opened)


def _device(name: str) -> torch.device:
    """Return the device of that name, ready to be computed on."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} needs a CUDA GPU, and torch finds none: leave it at auto, or say cpu")
    if device.type == "cpu":
        bound_kernel_caches()
    return device
