"""Questions -> tensors, without any weights: what a model's process is handed, and what places are measured by.

W: windows of a sound, N: choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from encoders.audio import AudioPreprocessor
from encoders.image import ImagePreprocessor
from encoders.media import DEFAULT_LIMITS, Audio, Image, Limits, MediaError
from encoders.modality import Modality
from onepeace.checkpoint import CheckpointError, ModelFolder, open_folder
from onepeace.inputs import Part
from onepeace.model.task_head import TaskConfig, choice_text
from onepeace.predict.answers import Size
from onepeace.predict.question import Question
from onepeace.reader import InputReader, Span, model_folder

Row = dict[str, list[Tensor]]  # parts by name: one text or as many as are compared, a picture, a window of a sound
Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question as a model takes it."""

    parts: dict[str, list[Tensor]]  # a text, or one for each choice; a picture; the windows of a sound
    size: Size | None = None  # of the first picture, upright
    spans: Sequence[Span] = ()  # seconds of each window of the sound

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return sum(tensor.nbytes for tensors in self.parts.values() for tensor in tensors)

    def rows(self, together: int) -> list[Row]:
        """Return what goes through the model at once: a window each, with `together` texts where texts are compared.

        The last text is repeated where they do not come out even.
        """
        texts = list(self.parts.get("text", ()))
        if together > 1:
            texts += texts[-1:] * (-len(texts) % together)
        out = []
        for window in range(self.windows):
            for first in range(0, max(1, len(texts)), together):
                row = {name: tensors for name, tensors in self.parts.items() if name not in ("text", "audio")}
                row |= {"text": texts[first : first + together]} if texts else {}
                row |= {"audio": self.parts["audio"][window : window + 1]} if "audio" in self.parts else {}
                out.append(row)
        return out

    def joined(self, numbers: Sequence[Numbers]) -> Numbers:
        """Return what the model said of the rows as (W, ...); of texts that are compared (W, N).

        A last window may have fewer slots than the others, where tokens are slots: the rest of its slots say nothing.
        """
        if len(numbers) == self.windows:
            longest = max(len(window) for window in numbers)
            whole: Numbers = np.stack(
                [np.pad(window, [(0, longest - len(window)), *[(0, 0)] * (window.ndim - 1)]) for window in numbers]
            )
        else:
            whole = np.concatenate(numbers).reshape(self.windows, -1)
        return whole

    @property
    def windows(self) -> int:
        """W; 1 where there is no sound."""
        return len(self.parts.get("audio", (None,)))


class TaskReader:
    """Opens what a task is asked about, and prepares it for a model, whose weights it does not load.

    Raises:
        CheckpointError: a folder without a task, or one that reads text and has no vocabulary.
    """

    def __init__(self, folder: ModelFolder, limits: Limits = DEFAULT_LIMITS) -> None:
        if folder.task is None:
            raise CheckpointError(
                f"{folder.path} holds a model that embeds, and no task's head: load it with onepeace.load_embedder"
            )
        self.folder, self.name = folder, folder.name
        self.task: TaskConfig = folder.task
        self.reader = InputReader(folder, limits)
        if any(modality not in self.reader.preprocessors for modality in self.task.modalities):
            raise CheckpointError(
                f"{folder.path} reads text and has no vocabulary: convert it again with `--vocab DIR`"
            )

    @classmethod
    def open(cls, model: str | Path, limits: Limits = DEFAULT_LIMITS) -> TaskReader:
        """Open the folder of a task's model. Raises CheckpointError."""
        return cls(open_folder(model_folder(model)), limits)

    @property
    def longest_window(self) -> float:
        """Seconds that a model hears at once; 0 where it hears nothing."""
        preprocessor = self.reader.preprocessors.get(Modality.AUDIO)
        return preprocessor.config.max_seconds if isinstance(preprocessor, AudioPreprocessor) else 0.0

    def prepare(self, question: Question) -> Prepared:
        """Open and prepare the parts of a question.

        Raises:
            MediaError: one cannot be read.
        """
        parts: dict[str, list[Tensor]] = {}
        size: Size | None = None
        spans: list[Span] = []
        for name, source in question.parts.items():
            if isinstance(source, Image):
                pictures = self.reader.preprocessors[Modality.IMAGE]
                assert isinstance(pictures, ImagePreprocessor)
                pixels, whole = pictures.sized(source)
                parts[name], size = [pixels], size or whole
            elif isinstance(source, Audio):
                prepared = self.reader.read(Part(Modality.AUDIO, source))
                parts[name] = [window for window, _ in prepared]
                spans = [span for _, span in prepared if span is not None]
        if question.choices:
            parts["text"] = [self._ids(choice_text(question.text, choice)) for choice in question.choices]
        elif "text" in question.parts:
            parts["text"] = [self._ids(question.text)]
        return Prepared(parts, size, spans)

    def prepared(self, question: Question | ValueError) -> Prepared | ValueError:
        """Return the same, or why there is none."""
        if isinstance(question, ValueError):
            return question
        try:
            return self.prepare(question)
        except MediaError as error:
            return error

    def _ids(self, text: str) -> Tensor:
        ((ids, _),) = self.reader.read(Part(Modality.TEXT, text))
        return ids
