"""From a Lightning checkpoint, which only resumes training, to the export folder that `onepeace.load` reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from onepeace.checkpoint import CARD, CheckpointError, Storage, must_be_free, open_folder, read_pickled, write_folder
from onepeace.model.config import ModelConfig
from onepeace.model.sequence import SequenceConfig, SequenceTower
from onepeace.model.task_head import TaskConfig, TaskKind
from onepeace.reader import model_folder
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

    What only training needs stays behind. `card` is the model card's text; None writes a short one. Of a sequence
    tower's checkpoint it is the model that the tower was trained beside, under its own name, with the tower.

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
    if "tower" in state[ENVELOPE]:
        return _export_tower(state, out, storage, card)
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


def _export_tower(state: Mapping[str, Any], out: Path, storage: Storage | None, card: str | None) -> ModelConfig:
    """Copy the model that a sequence tower was trained beside, name and all, and put the tower into its folder.

    So the vectors, and what knows the model by its fingerprint, stay as they are.
    """
    about = state[ENVELOPE]
    base = open_folder(model_folder(about["start"]))
    if base.fingerprint() != about["base"]:
        raise CheckpointError(
            f"{about['start']} is not the model that the tower was trained beside: its weights differ"
        )
    tower = SequenceTower(base.config, SequenceConfig(**about["tower"]))
    weights = state["state_dict"].items()
    tower.load_state_dict({key.removeprefix("model."): t for key, t in weights if key.startswith("model.")})
    shutil.copytree(base.path, out, dirs_exist_ok=True)
    own = (out / CARD).read_text(encoding="utf-8") if (out / CARD).exists() else ""
    (out / CARD).write_text(card or "\n".join([own.rstrip(), "", *_tower_card(tower, about)]) + "\n", encoding="utf-8")
    open_folder(out).write_sequence_tower(tower, storage or "float16")
    return base.config


def _tower_card(tower: SequenceTower, about: Mapping[str, Any]) -> list[str]:
    parameters = sum(tensor.numel() for tensor in tower.state_dict().values())
    return [
        "## Sequence tower",
        "",
        f"{parameters:,} parameters beside the model's own, which did not change. Trained on albums of:",
        "",
        *_trained_on(about["trained_on"]),
        *_figures("When training ended", about["figures"]),
    ]


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
        lines += ["", "## Trained on", "", *_trained_on(sources)]
        if all("rows_with_several_media" in described for described in sources.values()):
            several = sum(int(described["rows_with_several_media"]) for described in sources.values())
            lines += ["", f"Rows that have both a picture and a sound: {several}."]
        lines += ["", "A licence of a source may bind the weights too: where one allows research only, so do these."]
    lines += _figures("Recall when training ended" if task is None else "When training ended", figures)
    return "\n".join(lines) + "\n"


def _trained_on(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| source | rows | licence |", "| --- | --- | --- |"]
    for source, described in sources.items():
        licences = described["licences"]
        listed = "; ".join(licences[:2]) + (f"; and {len(licences) - 2} more" if len(licences) > 2 else "")
        lines.append(f"| {source} | {described['rows']:,} | {listed or 'not stated'} |")
    return lines


def _figures(title: str, figures: Mapping[str, float]) -> list[str]:
    if not figures:
        return []
    rows = [f"| {what} | {value:.1f} |" for what, value in figures.items()]
    return ["", f"## {title}", "", "| what | % |", "| --- | --- |", *rows]
