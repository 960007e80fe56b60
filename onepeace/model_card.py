"""What a model is, as a table for a notebook."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

import torch

from onepeace.checkpoint import CARD, ModelFolder, build_model

if TYPE_CHECKING:
    from onepeace.embedder import Embedder
    from onepeace.predict.predictor import TaskPredictor

LABELS = 12  # of a task that are named

# What an adapter reads, by the field of its preprocessing that says it.
READS = {"max_tokens": "{} tokens at most", "size": "{0} x {0} pixels", "max_seconds": "windows of {:g} s"}
_LICENCE = re.compile(r"licen[cs]e|for research|Apache-2|CC[ -]BY|\bMIT\b", re.IGNORECASE)


def model_card_html(model: Embedder) -> str:
    """Return the table: name, size, vectors, where and how it computes, its adapters, and its licence."""
    arithmetic = model.model.arithmetic
    dtype = "int8" if arithmetic.int8 else str(arithmetic.dtype).removeprefix("torch.")
    rows = {
        "model": f"{model.name} ({model.fingerprint})",
        "vectors": f"{model.dimension} numbers, length one",
        "computes": f"{dtype} on {model.device}",
    }
    return table_html(rows | folder_rows(model.folder))


def task_card_html(predictor: TaskPredictor) -> str:
    """Return the table of a task's model: name, what it answers, what it reads, and what it is made of."""
    rows = {
        "model": f"{predictor.name} ({predictor.folder.fingerprint()})",
        "task": f"{predictor.task.kind}: {predictor.does}",
        "reads": ", ".join(predictor.reads),
    }
    if predictor.labels:
        more = len(predictor.labels) - LABELS
        rows["labels"] = ", ".join(predictor.labels[:LABELS]) + (f", {more} more" if more > 0 else "")
    rows["computes"] = f"float32 on {predictor.device}"
    return table_html(rows | folder_rows(predictor.folder))


def folder_rows(folder: ModelFolder) -> dict[str, str]:
    """Return what a folder's config and card say: its size, its adapters, its licence."""
    config, readable = folder.config, folder.modalities()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(config, folder.task).parameters())
    rows = {
        "parameters": f"{parameters / 1e6:.1f} million",
        "Transformer": f"{config.layers} blocks, {config.width} wide, {config.heads} heads",
    }
    for modality, adapter in config.adapters.items():
        blind = "" if str(modality) in readable else ", without a vocabulary: not read"
        reads = vars(getattr(adapter, "preprocess", adapter))
        told = [form.format(reads[name]) for name, form in READS.items() if name in reads]
        rows[str(modality)] = f"{', '.join([adapter.kind, *told])}{blind}"
    card = folder.path / CARD
    if card.is_file() and (line := licence_line(card.read_text(encoding="utf-8", errors="replace"))):
        rows["licence"] = line
    return rows


def table_html(rows: dict[str, str]) -> str:
    """Return rows of a name and what is told of it as a table."""
    body = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(told)}</td></tr>'
        for name, told in rows.items()
    )
    return f"<table>{body}</table>"


def licence_line(card: str) -> str:
    """Return what a model card says of the licence: its front matter's, else the first paragraph that speaks of it.

    >>> licence_line("# A model\\n\\nIt embeds.\\n\\nFor research, **not** for sale.\\n")
    'For research, not for sale.'
    """
    stated = re.match(r"---\n.*?^license:\s*(\S+)\s*$.*?^---$", card, re.MULTILINE | re.DOTALL)
    if stated:
        return stated[1]
    paragraphs = (part for part in card.split("\n\n") if not part.lstrip().startswith(("|", "#")))
    told = next((part for part in paragraphs if _LICENCE.search(part)), "")
    return " ".join(re.sub(r"[*`]", "", told).split())
