"""Tensors of questions -> numbers, through a task's model: all that its process does.

W: windows of a sound, O: outputs, N: choices, Q: slots, A: axes (2 in a picture, 1 in time).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.adapter import Preprocessor
from encoders.tokens import Modality
from onepeace.model.set_head import found
from onepeace.model.task_head import SEARCHED
from onepeace.model.task_model import TaskModel
from onepeace.predict.question import SECOND

Numbers = NDArray[np.float32]
Parts = Mapping[str, Sequence[Tensor]]  # a question's, as `Prepared` has them


class Row(NamedTuple):
    """What goes through the model at once: one window, and as many texts as the model compares."""

    question: int
    window: int
    texts: Sequence[Tensor]  # none where the task reads no text


class TaskForward:
    """A task's model, and what puts its inputs together. A question gives the same numbers among any others."""

    def __init__(self, model: TaskModel, preprocessors: Mapping[Modality, Preprocessor], device: torch.device) -> None:
        self.model, self.device = model.to(device).eval(), device
        self.task, self.preprocessors = model.task, preprocessors

    def __call__(self, questions: Sequence[Parts], batch_size: int) -> list[Numbers]:
        """Return what the model says of each question, for each window of its sound (W is 1 without one).

        Probabilities (W, O) of a task that classifies or tags, (W, N) of one that chooses; (W, 4) corners in shares of
        the picture of one that grounds; (W, Q, 2A + 1) of one that searches: places in shares, then probabilities.
        """
        rows = [row for number, parts in enumerate(questions) for row in self._rows(number, parts)]
        order = sorted(range(len(rows)), key=lambda i: self._cost(questions[rows[i].question], rows[i]), reverse=True)
        step = max(1, batch_size // self.task.choices)
        logits: list[Any] = [None] * len(rows)
        for start in range(0, len(rows), step):
            members = order[start : start + step]
            for i, made in zip(members, self._forward(questions, [rows[i] for i in members]), strict=True):
                logits[i] = made
        whole: list[list[list[Tensor]]] = [[[] for _ in self._windows(parts)] for parts in questions]
        for row, made in zip(rows, logits, strict=True):  # in the order of the choices again
            whole[row.question][row.window].append(made)
        return [
            self._numbers(torch.stack([torch.cat(made) for made in windows]), parts)
            for windows, parts in zip(whole, questions, strict=True)
        ]

    def _rows(self, number: int, parts: Parts) -> Iterator[Row]:
        texts = list(parts.get("text", ()))
        together = self.task.choices
        if together > 1:  # as many as it was trained to compare; what is too many is cut off again
            texts += texts[-1:] * (-len(texts) % together)
        for window in range(len(self._windows(parts))):
            for first in range(0, max(1, len(texts)), together):
                yield Row(number, window, texts[first : first + together])

    def _windows(self, parts: Parts) -> Sequence[Tensor | None]:
        return parts.get(str(Modality.AUDIO), (None,))

    def _cost(self, parts: Parts, row: Row) -> tuple[int, int]:
        """Return the lengths of what is padded in a batch: rows of like lengths go together."""
        sound = self._windows(parts)[row.window]
        return 0 if sound is None else len(sound), max((len(text) for text in row.texts), default=0)

    def _forward(self, questions: Sequence[Parts], rows: Sequence[Row]) -> Tensor:
        """Return logits, (rows, O) or (rows, choices) or (rows, Q, 2A + 1)."""

        def collated(modality: Modality, items: list[Any]) -> tuple[Tensor, ...]:
            return tuple(tensor.to(self.device) for tensor in self.preprocessors[modality].collate(items))

        def items(modality: Modality, row: Row) -> Sequence[Tensor]:
            if modality is Modality.TEXT:
                return row.texts
            windows = questions[row.question][str(modality)]
            return windows[row.window : row.window + 1] if modality is Modality.AUDIO else windows

        inputs = {
            modality: collated(modality, [item for row in rows for item in items(modality, row)])
            for modality in self.task.modalities
        }
        second: tuple[Tensor, ...] = ()
        if self.task.pictures == 2:
            second = collated(Modality.IMAGE, [questions[row.question][SECOND][0] for row in rows])
        with torch.inference_mode():
            out: Tensor = self.model(inputs, second).float().cpu()
        return out

    def _numbers(self, logits: Tensor, parts: Parts) -> Numbers:
        """Return the numbers of one question from its logits, (W, ...)."""
        if self.task.kind in SEARCHED:
            places, probabilities = found(logits)
            out = torch.cat([places, probabilities.unsqueeze(-1)], dim=-1)
        elif self.task.kind == "choose":
            out = logits[:, : len(parts["text"])].softmax(dim=1)
        else:
            out = logits.softmax(dim=1) if self.task.kind == "classify" else logits.sigmoid()
        numbers: Numbers = out.numpy()
        return numbers
