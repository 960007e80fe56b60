"""Tensors of questions -> numbers, through a task's model: all that its process does.

O: outputs, Q: slots, A: axes (2 in a picture, 1 in time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from encoders.adapter import Preprocessor
from encoders.modality import Modality
from onepeace.ahead import CPU_BATCH_BYTES
from onepeace.model.set_head import found
from onepeace.model.task_head import SEARCHED
from onepeace.model.task_model import TaskModel
from onepeace.predict.preparing import Numbers, Row
from onepeace.predict.question import SECOND


class TaskForward:
    """A task's model, and what puts its inputs together. A row gives the same numbers among any others."""

    def __init__(self, model: TaskModel, preprocessors: Mapping[Modality, Preprocessor], device: torch.device) -> None:
        self.model, self.device = model.to(device).eval(), device
        self.task, self.preprocessors = model.task, preprocessors

    def __call__(self, rows: Sequence[Row], batch_size: int) -> list[Numbers]:
        """Return what the model says of each row.

        Probabilities (O,) of a task that classifies or tags, a logit for each text of one that chooses; (4,) corners in
        shares of the picture of one that grounds; (Q, 2A + 1) of one that searches: places in shares, probabilities.
        """
        order = sorted(range(len(rows)), key=lambda i: self._cost(rows[i]), reverse=True)
        most = max(1, batch_size // self.task.choices)
        out: list[Any] = [None] * len(rows)
        start = 0
        while start < len(rows):
            fitting = most
            if self.device.type == "cpu":  # the first is the longest, so it says what each takes once padded
                nbytes = sum(tensor.nbytes for tensors in rows[order[start]].values() for tensor in tensors)
                fitting = max(1, CPU_BATCH_BYTES // nbytes)
            members = order[start : start + min(most, fitting)]
            start += len(members)
            for i, numbers in zip(members, self._numbers([rows[i] for i in members]), strict=True):
                out[i] = numbers.numpy()
        return out

    def _cost(self, row: Row) -> tuple[int, ...]:
        """Return the lengths of what is padded in a batch: rows of like lengths go together."""
        return tuple(
            max(self.preprocessors[modality].length(item) for item in row[str(modality)])
            for modality in reversed(Modality)
            if str(modality) in row
        )

    def _numbers(self, rows: Sequence[Row]) -> Tensor:
        def collated(modality: Modality, name: str) -> tuple[Tensor, ...]:
            items = [item for row in rows for item in row[name]]
            return tuple(tensor.to(self.device) for tensor in self.preprocessors[modality].collate(items))

        inputs = {modality: collated(modality, str(modality)) for modality in self.task.modalities}
        second = collated(Modality.IMAGE, SECOND) if self.task.pictures == 2 else ()
        with torch.inference_mode():
            logits: Tensor = self.model(inputs, second).float().cpu()
            if self.task.kind in SEARCHED:
                places, probabilities = found(logits)
                return torch.cat([places, probabilities.unsqueeze(-1)], dim=-1)
            if self.task.kind == "choose":
                return logits
            return logits.softmax(dim=1) if self.task.kind == "classify" else logits.sigmoid()
