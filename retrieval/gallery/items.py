"""The pictures and sounds that ship with the package, and what is known of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GALLERY = Path(__file__).parent
MODALITIES = ("image", "audio")


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One picture or sound with its caption. Every line of gallery.jsonl has exactly these fields."""

    id: str
    modality: str  # "image" or "audio"
    file: str  # from the gallery's folder
    caption: str  # a sentence that a person would say of it; no two are equal
    concept: str  # what it is about; a picture and a sound of the same concept belong together
    title: str  # what its author called it
    source: str  # the collection it is from
    licence: str
    attribution: str  # whom to name
    origin: str  # its name in that collection
    split: str  # of the training data's manifests: "val" or "test"; "none" for what they do not hold

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"gallery item {self.id}: modality must be one of {MODALITIES}, got {self.modality!r}")
        empty = [name for name, value in vars(self).items() if not isinstance(value, str) or not value]
        if empty:
            raise ValueError(f"gallery item {self.id}: {', '.join(empty)} must not be empty")


def read_gallery(folder: Path = GALLERY) -> list[GalleryItem]:
    """Read `gallery.jsonl` in a folder. Raises ValueError naming a line that is not an item or repeats one."""
    items: dict[str, GalleryItem] = {}
    path = folder / "gallery.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields: dict[str, Any] = json.loads(line)
        try:
            item = GalleryItem(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if item.id in items:
            raise ValueError(f"{path}, line {number}: the id {item.id} is given twice")
        items[item.id] = item
    return list(items.values())
