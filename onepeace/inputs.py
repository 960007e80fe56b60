"""What a user may hand to `encode`, and how it becomes parts of one modality each.

A plain str is always text, whatever it looks like: media are typed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from encoders.media import Audio, Image, MediaError, MediaKind, Text, media_kind
from encoders.modality import Modality
from encoders.pages import Pages
from encoders.video import Video

__all__ = [
    "Audio",
    "Compose",
    "Image",
    "MediaError",
    "MediaKind",
    "Pages",
    "Part",
    "Text",
    "Video",
    "listed",
    "media_kind",
    "parts_of",
    "wrapped",
]

BYTES = bytes | bytearray | memoryview
WAY_OUT = "onepeace.Image(...) or onepeace.Audio(...)"


class Compose:
    """Several inputs as one query: the weighted sum of their embeddings, brought to length one.

    Weights may be negative, to push away. Raises ValueError for no parts, a `Compose` among them, or another number of
    weights.

    >>> Compose(Audio("rain.ogg"), "a street at night", weights=[1.0, 0.5])
    Compose(1 * Audio('rain.ogg'), 0.5 * 'a street at night')
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
    if is_decoder(value) or (isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys()):
        return [Part(Modality.AUDIO, Audio(value))]
    if _is_pil(value):
        return [Part(Modality.IMAGE, Image(value))]
    raise TypeError(_refusal(value))


def listed(values: Any) -> tuple[list[Any], bool]:
    """Return the inputs of an `encode` as a list, and whether they were a single one.

    Several are a list, a tuple, a generator, a pandas Series, an array of strings or objects, a column of `datasets`.

    Raises:
        TypeError: a set, which has no order, or a table, of which one column is wanted.
    """
    one = isinstance(values, str | Text | Image | Audio | Compose | Mapping | os.PathLike | BYTES)
    if one or is_decoder(values) or hasattr(values, "read") or _is_pil(values) or _is_numbers(values):
        return [values], True
    if isinstance(values, set | frozenset):
        raise TypeError("a set has no order, so its rows could not be told apart: give a list")
    columns = getattr(values, "column_names", None)  # of datasets and pyarrow
    if columns is None and hasattr(values, "iloc"):  # pandas
        columns = getattr(values, "columns", None)
    if columns is not None:
        raise TypeError(f"a {type(values).__name__} is a table: give one column, such as table[{str(columns[0])!r}]")
    return (list(values), False) if isinstance(values, Iterable) else ([values], True)


def wrapped(kind: type[Text | Image | Audio], values: Any) -> tuple[list[Any], bool]:
    """Return inputs that are all of one kind, as `listed` does, each in that wrapper.

    Raises:
        TypeError: one is in another wrapper, and what `listed` refuses.
    """
    inputs, single = listed(values)
    for i, value in enumerate(inputs):
        if isinstance(value, Text | Image | Audio | Compose) and not isinstance(value, kind):
            raise TypeError(f"input {i} is {value!r}, wanted {kind.__name__}: `encode` takes mixed inputs")
    return [value if isinstance(value, kind) else kind(value) for value in inputs], single


def is_decoder(value: Any) -> bool:
    """Return whether this is torchcodec's AudioDecoder, which `datasets` hands out, or something of its kind."""
    return not isinstance(value, type) and callable(getattr(value, "get_all_samples", None))


def _is_pil(value: Any) -> bool:
    # Named rather than imported: PIL need not be loaded to embed text. Its subclasses may come from elsewhere.
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__)


def _is_numbers(value: Any) -> bool:
    """Return whether this is an array or a tensor of numbers; one of objects or strings is a list of inputs."""
    if not hasattr(value, "__array__") or not hasattr(value, "ndim") or hasattr(value, "iloc"):
        return False
    return value.ndim == 0 or getattr(value.dtype, "kind", "f") not in "OUST"


def _refusal(value: Any) -> str:
    """Say why a value is no input, and what to do."""
    name = type(value).__name__
    if isinstance(value, BYTES):
        return f"{name} could be anything: wrap them as {WAY_OUT}"
    if isinstance(value, os.PathLike):
        return f"a path could lead to anything: wrap it as {WAY_OUT}, or read a text with read_text()"
    if hasattr(value, "read"):
        return f"an open file could hold anything: wrap it as {WAY_OUT}"
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        if {"bytes", "path"} & value.keys():
            return f"a dict of {keys} could be a picture or a sound: wrap it as {WAY_OUT}, or call encode_images"
        return (
            f"a dict of {keys} is no input: give one of its values, wrapped as {WAY_OUT}, or several as "
            "onepeace.Compose(...); samples are {'array': ..., 'sampling_rate': ...}"
        )
    if isinstance(value, Video | Pages):
        return f"{name} has many items: give it to encode_sequence"
    if _is_numbers(value) and hasattr(value, "shape") and value.ndim > 0:
        shape = tuple(value.shape)
        return (
            f"an array of shape {shape} could be a picture, samples or vectors: wrap it as onepeace.Image(array) or "
            "onepeace.Audio(array, sampling_rate=...)"
        )
    return (
        f"cannot embed {name}: give a str for text, onepeace.Image(...), onepeace.Audio(...), a PIL image, or "
        "{'array': ..., 'sampling_rate': ...}"
    )
