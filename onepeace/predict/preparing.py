"""Questions -> tensors, without any weights: what a model's process is handed, and what places are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from encoders.audio import AudioPreprocessor
from encoders.image import ImagePreprocessor
from encoders.media import DEFAULT_LIMITS, Audio, Image, Limits, MediaError
from encoders.tokens import Modality
from onepeace.checkpoint import CheckpointError, ModelFolder
from onepeace.inputs import Part
from onepeace.model.task_head import TaskConfig, choice_text
from onepeace.predict.answers import Size
from onepeace.predict.question import Question
from onepeace.reader import InputReader, Span


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


class TaskReader:
    """Opens what a task is asked about.

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
