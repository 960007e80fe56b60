"""The Python face of a task's model: raw inputs -> answers. B: inputs of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.tokens import Modality
from onepeace.checkpoint import CheckpointError, ModelFolder
from onepeace.inputs import parts_of
from onepeace.model.task_head import TaskConfig
from onepeace.reader import InputReader
from onepeace.zero_shot import Prediction

KINDS = ("classify", "tag")  # that answer with labels

Window = tuple[int, Tensor]  # the input; what its preprocessor made


class TaskPredictor:
    """Says which label each picture, sound or text has, with a head that was trained for it.

    An answer never depends on what else is asked with it.

    Raises:
        CheckpointError: a folder without a task, or whose task does not answer with labels about single inputs.
    """

    def __init__(self, folder: ModelFolder, device: torch.device) -> None:
        self.model = folder.task_model().to(device)
        self.task: TaskConfig = self.model.task
        self.device = device
        if self.task.kind not in KINDS or len(self.task.modalities) > 1:
            raise CheckpointError(
                f"{folder.path} holds a model that {self.task.kind}s by {' and '.join(self.task.modalities)}: take "
                "onepeace.checkpoint.open_folder(...).task_model(), which works on tensors"
            )
        self.modality: Modality = self.task.modalities[0]
        self.name = folder.name
        self.reader = InputReader(folder)
        if self.modality not in self.reader.preprocessors:
            raise CheckpointError(
                f"{folder.path} reads text and has no vocabulary: convert it again with `--vocab DIR`"
            )

    def __repr__(self) -> str:
        return f"TaskPredictor({self.name!r}, {len(self.labels)} labels for {self.modality})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels; their numbers where they have no names."""
        return self.task.labels or tuple(str(number) for number in range(self.task.outputs))

    def probabilities(self, inputs: Sequence[Any], batch_size: int = 32) -> NDArray[np.float32]:
        """Return (inputs, labels): each row adds up to one, or in a task that tags each number stands for itself.

        A long sound's is the mean over its windows.

        Raises:
            MediaError: an input cannot be read.
            TypeError: an input of an unknown type.
            ValueError: an input of another modality.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        preprocessor = self.reader.preprocessors[self.modality]
        sums = np.zeros((len(inputs), len(self.labels)), np.float32)
        counts = np.zeros((len(inputs), 1), np.float32)
        for start in range(0, len(inputs), batch_size):
            windows: list[Window] = []
            for i, value in enumerate(inputs[start : start + batch_size], start):
                parts = parts_of(value)
                if [part.modality for part in parts] != [self.modality]:
                    raise ValueError(f"input {i} is {parts[0].modality}, and {self.name} reads {self.modality} only")
                windows += [(i, window) for window, _ in self.reader.read(parts[0])]
            windows.sort(key=lambda window: -preprocessor.length(window[1]))
            for first in range(0, len(windows), batch_size):
                members = windows[first : first + batch_size]
                rows = self._forward(preprocessor.collate([window for _, window in members]))
                np.add.at(sums, [i for i, _ in members], rows)
                np.add.at(counts, [i for i, _ in members], 1.0)
        return sums / counts

    def predict(self, inputs: Sequence[Any], batch_size: int = 32) -> list[Prediction]:
        """Return one prediction an input, as `ZeroShotClassifier.predict` does.

        Raises:
            MediaError: an input cannot be read.
            TypeError: an input of an unknown type, or one input outside a list.
            ValueError: an input of another modality.
        """
        if isinstance(inputs, str) or not isinstance(inputs, Sequence):
            raise TypeError(f"predict takes a list of inputs, got {type(inputs).__name__}")
        return [
            Prediction(
                self.labels[int(row.argmax())], float(row.max()), dict(zip(self.labels, row.tolist(), strict=True))
            )
            for row in self.probabilities(inputs, batch_size)
        ]

    def _forward(self, tensors: tuple[Tensor, ...]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self.model({self.modality: tuple(tensor.to(self.device) for tensor in tensors)}).float()
            rows = logits.softmax(dim=1) if self.task.kind == "classify" else logits.sigmoid()
        out: NDArray[np.float32] = rows.cpu().numpy()
        return out
