"""Small models of every kind of task, as export folders: fresh heads on a tiny random trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from random_models import write_random_model

from onepeace.checkpoint import build_model, open_folder, write_folder
from onepeace.model.task_head import SEARCHED, TaskConfig
from onepeace.training.start import load_start

TASKS: dict[str, dict[str, Any]] = {
    "classify": {"kind": "classify", "modalities": ["image"], "outputs": 3, "labels": ["red", "green", "blue"]},
    "sounds": {"kind": "classify", "modalities": ["audio"], "outputs": 4},
    "words": {"kind": "classify", "modalities": ["text"], "outputs": 2, "labels": ["good", "bad"]},
    "answer": {"kind": "tag", "modalities": ["text", "image"], "outputs": 5, "labels": ["no", "yes", "1", "2", "3"]},
    "pair": {
        "kind": "classify",
        "modalities": ["text", "image"],
        "outputs": 2,
        "pictures": 2,
        "labels": ["true", "false"],
    },
    "both": {"kind": "tag", "modalities": ["image", "audio"], "outputs": 3},
    "choose": {"kind": "choose", "modalities": ["text", "audio"], "outputs": 1, "choices": 4},
    "ground": {"kind": "ground", "modalities": ["text", "image"], "outputs": 4, "pooled": "image"},
    "detect": {"kind": "detect", "modalities": ["text", "image"], "outputs": 4},
    "locate": {"kind": "locate", "modalities": ["text", "audio"], "outputs": 3},
}


def write_task_models(folder: Path, design: str = "official") -> Path:
    """Write a model of each of `TASKS` into a folder of its name."""
    start = open_folder(write_random_model(folder / "start", design))
    for name, task in TASKS.items():
        write_task_model(folder / name, start.path, TaskConfig.from_dict(task))
    return folder


def write_task_model(path: Path, start: Path, task: TaskConfig, saying: list[float] | None = None) -> Path:
    """Write one; with `saying`, its head gives these logits whatever it reads (one slot's, where it has slots)."""
    torch.manual_seed(11)
    opened = open_folder(start)
    model: Any = build_model(opened.config, task)
    load_start(model, opened.model().state_dict())
    for parameter in model.head.parameters():
        if parameter.ndim > 1:  # far from the gentle start, so that differences show
            torch.nn.init.normal_(parameter, std=0.3)
    if saying is not None:
        head = model.head
        said = [(head.place, saying[:-1]), (head.presence, saying[-1:])] if task.kind in SEARCHED else []
        for linear, logits in said or [(head.classifier.output, saying)]:
            torch.nn.init.zeros_(linear.weight)
            linear.bias.data.copy_(torch.tensor(logits))
    write_folder(path, path.name, opened.config, model.state_dict(), opened.tokenizer(), "# A task\n", task=task)
    return path
