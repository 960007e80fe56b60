"""What a model is, as a table for a notebook."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from onepeace.checkpoint import CARD
from onepeace.model.onepeace import count_parameters

if TYPE_CHECKING:
    from onepeace.embedder import Embedder

# What an adapter reads, by the field of its preprocessing that says it.
READS = {"max_tokens": "{} tokens at most", "size": "{0} x {0} pixels", "max_seconds": "windows of {:g} s"}
_LICENCE = re.compile(r"licen[cs]e|for research|Apache-2|CC[ -]BY|\bMIT\b", re.IGNORECASE)


def model_card_html(model: Embedder) -> str:
    """Return the table: name, size, vectors, where and how it computes, its adapters, and its licence."""
    config, arithmetic = model.model.config, model.model.arithmetic
    rows = {
        "model": f"{model.name} ({model.fingerprint})",
        "parameters": f"{count_parameters(config) / 1e6:.1f} million",
        "vectors": f"{model.dimension} numbers, length one",
        "computes": f"{'int8' if arithmetic.int8 else str(arithmetic.dtype).removeprefix('torch.')} on {model.device}",
        "Transformer": f"{config.layers} blocks, {config.width} wide, {config.heads} heads",
    }
    for modality, adapter in config.adapters.items():
        blind = "" if str(modality) in model.modalities else ", without a vocabulary: not read"
        reads = vars(getattr(adapter, "preprocess", adapter))
        told = [form.format(reads[name]) for name, form in READS.items() if name in reads]
        rows[str(modality)] = f"{', '.join([adapter.kind, *told])}{blind}"
    card = model.folder.path / CARD
    if card.is_file() and (line := licence_line(card.read_text(encoding="utf-8", errors="replace"))):
        rows["licence"] = line
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
