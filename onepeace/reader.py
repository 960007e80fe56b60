"""Inputs before the model and vectors behind it: what needs no weights. D: embedding dimension, W: windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from encoders.audio import AudioPreprocessor
from encoders.image import ImagePreprocessor
from encoders.media import DEFAULT_LIMITS, Audio, Image, Limits, Text
from encoders.modality import Modality
from onepeace.checkpoint import CheckpointError, ModelFolder, open_folder
from onepeace.inputs import Part, parts_of

FloatMatrix = NDArray[np.float32]
Span = tuple[float, float]  # start and end in seconds
Prepared = list[tuple[Tensor, Span | None]]  # what a preprocessor made of one input: one tensor, or its windows

SHIPPED = Path(__file__).parent / "weights"  # models inside the package
DRAFT = 2  # times the model's size: a JPEG that is larger is decoded smaller, which is faster and hardly shows
CANCELLED = 1e-5  # share of its parts' weights; a shorter sum is rounding error, not a direction
CANCELLED_WHY = "its parts cancel out, so it has no direction; change the weights"


class InputReader:
    """Opens what a user hands in and prepares it for a model, whose weights it does not load."""

    def __init__(self, folder: ModelFolder, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.folder = folder
        self.name = folder.name
        tokenizer = folder.tokenizer()
        self.preprocessors = {
            modality: config.preprocessor(tokenizer)
            for modality, config in folder.config.adapters.items()
            if modality is not Modality.TEXT or tokenizer is not None
        }
        for preprocessor in self.preprocessors.values():
            preprocessor.limits = limits
        pictures = self.preprocessors.get(Modality.IMAGE)
        if isinstance(pictures, ImagePreprocessor):
            pictures.draft_size = DRAFT * pictures.config.size

    @classmethod
    def open(cls, model: str | Path, limits: Limits = DEFAULT_LIMITS) -> InputReader:
        """Open a model as `onepeace.load` names it. Raises CheckpointError."""
        return cls(embedding_folder(model), limits)

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.folder.config.embedding_dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """What this model can embed; without a vocabulary a model reads no text."""
        return tuple(str(modality) for modality in self.preprocessors)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that stand for config, weights and tokenizer: a store belongs to one of these."""
        return self.folder.fingerprint()

    def read(self, part: Part, prompt: str | None = None) -> Prepared:
        """Return a part's windows, ready for the model. Raises MediaError when it cannot be read."""
        source = prompt + part.source if prompt and part.modality is Modality.TEXT else part.source
        prepared = self.preprocessors[part.modality](source)
        if not isinstance(prepared, list):
            return [(prepared, None)]
        return [(window.samples, (window.start, window.end)) for window in prepared]

    def sound_windows(self, sound: Audio) -> Iterator[tuple[NDArray[np.float32], Span]]:
        """Yield the windows of a sound as they are decoded, each with its start and end.

        Raises:
            MediaError: it cannot be read.
            ValueError: the model reads no sounds.
        """
        preprocessor = self.preprocessors.get(Modality.AUDIO)
        if not isinstance(preprocessor, AudioPreprocessor):
            raise ValueError(f"{self.name} reads {', '.join(self.modalities)} only: leave out sounds (sound=False)")
        for window in preprocessor.stream(sound):
            yield window.samples.numpy(), (window.start, window.end)

    def windows(self, kind: str, content: str | bytes) -> list[NDArray[np.float32]]:
        """Return the windows of a text, or of a picture or sound in encoded bytes. Raises MediaError."""
        wrap = {Modality.IMAGE: Image, Modality.AUDIO: Audio, Modality.TEXT: Text}
        (part,) = parts_of(wrap[Modality(kind)](content))
        return [window.numpy() for window, _ in self.read(part)]


def model_folder(model: str | Path) -> Path:
    """Return where a model lies that is named as `load` takes it.

    Raises:
        CheckpointError: no such model.
    """
    shipped = SHIPPED / str(model)
    folder = shipped if shipped.is_dir() and "/" not in str(model) else Path(model)
    if not folder.is_dir():
        names = ", ".join(sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())) or "none"
        raise CheckpointError(
            f"no model {str(model)!r}: give the path of an export folder, or a shipped name ({names})"
        )
    return folder


def embedding_folder(model: str | Path) -> ModelFolder:
    """Return the folder of a model that embeds, named as `load` takes it.

    Raises:
        CheckpointError: no such model, a folder that cannot be read, or one of a task's model.
    """
    opened = open_folder(model_folder(model))
    if opened.task is not None:
        raise CheckpointError(
            f"{opened.path} holds the head of a task ({opened.task.kind}) and embeds nothing: it answers through "
            "onepeace.load_task(...).predict, `onepeace predict --model` and `onepeace serve --head`"
        )
    return opened


def unit_row(row_D: FloatMatrix) -> FloatMatrix:
    """Return the row at length one."""
    out: FloatMatrix = row_D / np.linalg.norm(row_D)
    return out


def shortened(rows: FloatMatrix, numbers: int | None) -> FloatMatrix:
    """Return the first numbers of unit vectors (D,) or (N, D), at length one again; None: all of them."""
    if numbers is None:
        return rows
    short = rows[..., :numbers]
    out: FloatMatrix = short / np.linalg.norm(short, axis=-1, keepdims=True)
    return out


def mean(rows_WD: FloatMatrix) -> FloatMatrix:
    """Return one vector (D,) for all windows of an input."""
    return unit_row(rows_WD.mean(axis=0))


def combined(rows: Sequence[FloatMatrix], weights: Sequence[float]) -> FloatMatrix:
    """Return the vector (D,) of an input of several parts. Raises ValueError where they cancel out."""
    sum_D = np.zeros_like(rows[0])
    for row_D, weight in zip(rows, weights, strict=True):
        sum_D += weight * row_D
    if not np.linalg.norm(sum_D) > CANCELLED * sum(map(abs, weights)):
        raise ValueError(CANCELLED_WHY)
    return unit_row(sum_D)
