"""A training run in small, and what it leaves behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
import yaml


def write_config(folder: Path, pack: Path, **trainer: Any) -> Path:
    """Write a run of 3 epochs of 3 steps, with dropout, on pictures and sounds."""
    model = yaml.safe_load((pack / "model.yaml").read_text()) | {"drop_path": 0.2, "dropout": 0.1}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    callback = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {
            "dirpath": str(folder / "kept"),
            "filename": "{step}",
            "every_n_train_steps": 1,
            "save_top_k": -1,
        },
    }
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "log"},
    }
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 3,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [callback],
            "logger": [logger],
            "default_root_dir": str(folder),
            **trainer,
        },
        "model": {
            "model": str(folder / "model.yaml"),
            "tokenizer": str(pack / "tokenizer.json"),
            "optimizer": {"lr": 3e-3},
            "loss": {"keep_tokens": 3},
        },
        "data": {
            "root": str(pack),
            "manifest": "manifest.jsonl",
            "steps_per_epoch": 3,
            "streams": [
                {"modality": "image", "batch_size": 8, "sources": [{"source": "colours", "positives": "label"}]},
                {"modality": "audio", "batch_size": 4, "sources": [{"source": "notes", "positives": "label"}]},
            ],
            "evaluations": [
                {
                    "name": "colours",
                    "modality": "image",
                    "manifests": ["manifest.jsonl"],
                    "batch_size": 10,
                    "sources": [{"source": "colours", "positives": "label"}],
                }
            ],
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def losses(folder: Path) -> dict[int, float]:
    """Return the loss of each step of the last run."""
    versions = sorted((folder / "log").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    with open(versions[-1] / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {int(row["step"]): float(row["train/loss"]) for row in rows if row["train/loss"]}


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state
