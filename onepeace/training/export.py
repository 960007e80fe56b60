"""From a Lightning checkpoint, which only resumes training, to the export folder that `onepeace.load` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from onepeace.checkpoint import CheckpointError, Storage, must_be_free, read_pickled, write_folder
from onepeace.model.config import ModelConfig
from onepeace.model.task_head import TaskConfig, TaskKind
from onepeace.training.lora import merged

ENVELOPE = "onepeace"  # key of a .ckpt that holds what an export needs beside the weights

VERBS: dict[TaskKind, str] = {
    "classify": "names the one right label",
    "tag": "names all labels that fit",
    "choose": "chooses among texts",
    "ground": "finds what a text speaks of",
    "detect": "finds everything in a picture that a text speaks of",
    "locate": "finds when a sound is heard that a text speaks of",
}


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """Return a Lightning checkpoint, read without unpickling anything but tensors and plain values.

    Raises:
        CheckpointError: no such file, damaged, or not written by `onepeace train`.

    >>> import torch
    >>> torch.save({"epoch": 3}, "other.ckpt")
    >>> read_training_checkpoint(Path("other.ckpt"))
    Traceback (most recent call last):
    CheckpointError: other.ckpt was not written by `onepeace train`
    """
    checkpoint = read_pickled(path)
    if not isinstance(checkpoint, dict) or not {ENVELOPE, "state_dict"} <= checkpoint.keys():
        raise CheckpointError(f"{path} was not written by `onepeace train`")
    return checkpoint


def export_checkpoint(
    checkpoint: Path, out: Path, name: str, storage: Storage | None = "float16", card: str | None = None
) -> ModelConfig:
    """Write the model of a Lightning checkpoint as an export folder, and return its config.

    What only training needs stays behind. `card` is the model card's text; None writes a short one.

    Raises:
        CheckpointError: the checkpoint cannot be read or is not ours.

    >>> import torch
    >>> folder = model.folder  # in the place of what `onepeace train` writes
    >>> weights = {f"model.{name}": tensor for name, tensor in folder.model().state_dict().items()}
    >>> about = {"model": folder.config.to_dict(), "tokenizer": folder.tokenizer().to_str()}
    >>> torch.save({ENVELOPE: about, "state_dict": weights}, "last.ckpt")
    >>> export_checkpoint(Path("last.ckpt"), Path("my-model"), "my-model").embedding_dim
    512
    >>> onepeace.load("my-model").name
    'my-model'
    """
    must_be_free(out)
    state = read_training_checkpoint(checkpoint)
    config = ModelConfig.from_dict(state[ENVELOPE]["model"])
    task = TaskConfig.from_dict(state[ENVELOPE]["task"]) if state[ENVELOPE].get("task") else None
    tensors = {
        key.removeprefix("model."): tensor for key, tensor in state["state_dict"].items() if key.startswith("model.")
    }
    if (scale := state[ENVELOPE].get("lora_scale")) is not None:
        tensors = merged(tensors, scale)
    stored = state[ENVELOPE]["tokenizer"]
    tokenizer = None if stored is None else Tokenizer.from_str(stored)
    if card is None:
        parameters = sum(tensor.numel() for tensor in tensors.values())
        card = model_card(
            name, config, parameters, state[ENVELOPE].get("trained_on", {}), state[ENVELOPE].get("figures", {}), task
        )
    write_folder(out, name, config, tensors, tokenizer, card, storage, task)
    return config


def model_card(
    name: str,
    config: ModelConfig,
    parameters: int,
    sources: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, float],
    task: TaskConfig | None = None,
) -> str:
    """Return a model card: what it is, what it was trained on and under which licences, and what was measured.

    >>> sources = {"mine": {"rows": 6000, "licences": ["CC0"], "rows_with_several_media": 0}}
    >>> card = model_card("my-model", model.folder.config, 35_502_080, sources, {"mine/R@1": 21.04})
    >>> "| mine | 6,000 | CC0 |" in card, "| mine/R@1 | 21.0 |" in card
    (True, True)
    """
    does = f"Embeds {', '.join(config.adapters)} into one space of {config.embedding_dim} dimensions"
    if task is not None:
        does = f"A head that {VERBS[task.kind]}, by {' and '.join(task.modalities)}, on the trunk of an embedding model"
    lines = [
        f"# {name}",
        "",
        f"{does}, after ONE-PEACE (Wang et al., 2023, arXiv:2305.11172).",
        "",
        f"{parameters:,} parameters: {config.layers} blocks of width {config.width} with {config.heads} heads, their "
        f"adapters {', '.join(f'{modality} ({adapter.kind})' for modality, adapter in config.adapters.items())}.",
    ]
    if sources:
        lines += ["", "## Trained on", "", "| source | rows | licence |", "| --- | --- | --- |"]
        for source, described in sources.items():
            licences = described["licences"]
            listed = "; ".join(licences[:2]) + (f"; and {len(licences) - 2} more" if len(licences) > 2 else "")
            lines.append(f"| {source} | {described['rows']:,} | {listed or 'not stated'} |")
        if all("rows_with_several_media" in described for described in sources.values()):
            several = sum(int(described["rows_with_several_media"]) for described in sources.values())
            lines += ["", f"Rows that have both a picture and a sound: {several}."]
        lines += ["", "A licence of a source may bind the weights too: where one allows research only, so do these."]
    if figures:
        lines += [
            "",
            "## Recall when training ended" if task is None else "## When training ended",
            "",
            "| what | % |",
            "| --- | --- |",
        ]
        lines += [f"| {what} | {value:.1f} |" for what, value in figures.items()]
    return "\n".join(lines) + "\n"
