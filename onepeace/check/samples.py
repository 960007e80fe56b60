"""Real inputs that a model is checked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Samples:
    """A few inputs of each modality. The first of each is what reference figures are for."""

    texts: Sequence[str]
    pictures: Sequence[Path]
    sounds: Sequence[Path]

    def of(self, modality: str) -> list[Any]:
        """Return the inputs of "text", "image" or "audio", as `encode` takes them."""
        from onepeace.inputs import Audio, Image

        inputs: dict[str, list[Any]] = {
            "text": list(self.texts),
            "image": [Image(path) for path in self.pictures],
            "audio": [Audio(path) for path in self.sounds],
        }
        return inputs[modality]
