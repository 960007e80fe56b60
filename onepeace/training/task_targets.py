"""Right answers as the losses take them, and how well answers are given, by the kind of task.

B: rows, C: labels, Q: slots, A: axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from onepeace.metrics import accuracy, average_precisions, box_accuracy, box_overlaps, soft_accuracy
from onepeace.model.set_head import found
from onepeace.model.task_head import CORNERS, SEARCHED, TaskConfig
from onepeace.set_metrics import absence, f1_at_overlap
from onepeace.training.questions import Question

UNKNOWN = -1  # a label that the model does not have; no answer equals it


def target_of(question: Question, task: TaskConfig, numbers: Mapping[str, int], seconds: float = 0.0) -> Any:
    """Return a question's target.

    `numbers` gives each label's place among the outputs, and `seconds` the longest window that is heard: only what
    lies in the first one is to be found.
    """
    if task.kind == "locate":
        return _spans(question, seconds)
    return _TARGETS[task.kind](question, numbers)


def collate_targets(targets: Sequence[Any], task: TaskConfig) -> Any:
    """Return the targets of a batch, as the kind's loss takes them."""
    if task.kind == "tag":
        target_BC = torch.zeros(len(targets), task.outputs)
        for row, scores in enumerate(targets):
            for label, score in scores.items():
                target_BC[row, label] = score
        return target_BC
    if task.kind in SEARCHED:
        return list(targets)
    return torch.tensor(targets)


def task_figures(task: TaskConfig, logits: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, float]:
    """Return what is measured of the answers to all rows, in percent: name -> figure. Takes a tensor for each batch."""
    return _FIGURES[task.kind](logits, targets)


def _label(question: Question, numbers: Mapping[str, int]) -> int:
    return numbers.get(next(iter(question.answers)), UNKNOWN)


def _scores(question: Question, numbers: Mapping[str, int]) -> dict[int, float]:
    return {numbers[label]: score for label, score in question.answers.items() if label in numbers}


def _choice(question: Question, numbers: Mapping[str, int]) -> int:
    assert question.right is not None
    return question.right


def _box(question: Question, numbers: Mapping[str, int]) -> tuple[float, ...]:
    assert question.box is not None
    return question.box


def _boxes(question: Question, numbers: Mapping[str, int]) -> Tensor:
    assert question.boxes is not None
    return torch.tensor(question.boxes, dtype=torch.float32).view(-1, CORNERS)


def _spans(question: Question, seconds: float) -> Tensor:
    assert question.spans is not None
    heard = [(start, min(end, seconds)) for start, end in question.spans if start < seconds]
    return torch.tensor(heard, dtype=torch.float32).view(-1, 2) / seconds


_TARGETS: dict[str, Callable[[Question, Mapping[str, int]], Any]] = {
    "classify": _label,
    "tag": _scores,
    "choose": _choice,
    "ground": _box,
    "detect": _boxes,
}


def _right(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
    return {"accuracy": accuracy(torch.cat(list(logits)).argmax(dim=1), torch.cat(list(targets)))}


def _tagged(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
    scores_BC, target_BC = torch.cat(list(logits)).numpy(), torch.cat(list(targets)).numpy()
    precisions_C = average_precisions(scores_BC, target_BC > 0.0)
    there_C = (target_BC > 0.0).any(axis=0)
    mean = float(precisions_C[there_C].mean()) if there_C.any() else 0.0
    return {"accuracy": soft_accuracy(scores_BC, target_BC), "mAP": mean}


def _grounded(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
    boxes_B4, target_B4 = torch.cat(list(logits)).sigmoid().numpy(), torch.cat(list(targets)).numpy()
    overlap = 100.0 * float(box_overlaps(boxes_B4, target_B4).mean())
    return {"accuracy": box_accuracy(boxes_B4, target_B4), "overlap": overlap}


def _searched(logits: Sequence[Tensor], targets: Sequence[Sequence[Tensor]]) -> dict[str, float]:
    """Measure what is likelier there than not."""
    there: list[Any] = []
    for logits_BQC in logits:
        places_BQC, probabilities_BQ = found(logits_BQC)
        there += [places[p > 0.5].numpy() for places, p in zip(places_BQC, probabilities_BQ, strict=True)]
    wanted: list[Any] = [target.numpy() for batch in targets for target in batch]
    return {"F1": f1_at_overlap(there, wanted), "absence precision": absence(there, wanted)[0]}


_FIGURES: dict[str, Callable[[Sequence[Tensor], Sequence[Any]], dict[str, float]]] = {
    "classify": _right,
    "tag": _tagged,
    "choose": _right,
    "ground": _grounded,
    "detect": _searched,
    "locate": _searched,
}
