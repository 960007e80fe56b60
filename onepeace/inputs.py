"""What a user may hand to `encode`, and how it becomes parts of one modality each.

A plain str is always text, whatever it looks like: media are typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encoders.media import Audio, Image, MediaError, MediaKind, Text, media_kind
from encoders.tokens import Modality

__all__ = ["Audio", "Compose", "Image", "MediaError", "MediaKind", "Part", "Text", "media_kind", "parts_of"]


class Compose:
    """Several inputs as one query: the weighted sum of their embeddings, brought to length one.

    >>> Compose(Audio("rain.ogg"), "a street at night", weights=[1.0, 0.5])
    """

    def __init__(self, *parts: Any, weights: list[float] | None = None) -> None:
        if not parts:
            raise ValueError("Compose needs at least one part")
        if any(isinstance(part, Compose) for part in parts):
            raise ValueError("a part of Compose cannot be a Compose itself: list its parts instead")
        self.parts = parts
        self.weights = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(parts):
            raise ValueError(f"Compose got {len(parts)} parts and {len(self.weights)} weights")

    def __repr__(self) -> str:
        parts = ", ".join(f"{weight:g} * {part!r}" for part, weight in zip(self.parts, self.weights, strict=True))
        return f"Compose({parts})"


@dataclass(frozen=True)
class Part:
    """One input of one modality, as its preprocessor takes it, with its weight in the result."""

    modality: Modality
    source: Any
    weight: float = 1.0


def parts_of(value: Any) -> list[Part]:
    """Return the parts of one input.

    Raises:
        TypeError: a type that is neither text nor a known kind of media.
    """
    if isinstance(value, Compose):
        return [
            Part(part.modality, part.source, weight)
            for member, weight in zip(value.parts, value.weights, strict=True)
            for part in parts_of(member)
        ]
    if isinstance(value, str):
        return [Part(Modality.TEXT, value)]
    if isinstance(value, Text):
        return [Part(Modality.TEXT, value.text)]
    if isinstance(value, Image):
        return [Part(Modality.IMAGE, value)]
    if isinstance(value, Audio):
        return [Part(Modality.AUDIO, value)]
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():
        return [Part(Modality.AUDIO, Audio(dict(value)))]
    # Named rather than imported: PIL need not be loaded to embed text.
    if type(value).__module__.startswith("PIL.") and hasattr(value, "convert"):
        return [Part(Modality.IMAGE, Image(value))]
    raise TypeError(
        f"cannot embed {type(value).__name__}: give a str for text, onepeace.Image(...), onepeace.Audio(...), "
        "a PIL image, or {'array': ..., 'sampling_rate': ...}"
    )
