"""What a task's model says in numbers -> answers, in pixels of the picture and seconds of the sound as they were given.

W: windows of a sound, O: outputs, N: choices, Q: slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onepeace.model.task_head import TaskConfig
from onepeace.predict.answers import (
    Answer,
    Box,
    Choice,
    Detection,
    FoundBox,
    FoundSpan,
    Grounding,
    Moments,
    Prediction,
    Size,
    Span,
    Tags,
)
from onepeace.predict.preparing import Numbers, Prepared
from onepeace.predict.question import Question

FITS = 0.5  # probability from which a label fits, or a thing is there, unless told
APART = 0.05  # seconds; spans of neighbouring windows that are no further apart are one


@dataclass(frozen=True)
class Asked:
    """What an answer is about: the question, and how shares become pixels and seconds."""

    question: Question
    prepared: Prepared
    longest_window: float = 0.0  # seconds that a share of 1 is

    @property
    def size(self) -> Size:
        """Of the picture."""
        assert self.prepared.size is not None
        return self.prepared.size


def labels_of(task: TaskConfig) -> tuple[str, ...]:
    """Return the names of a task's labels; their numbers where they have no names; none where it answers otherwise."""
    if task.kind not in ("classify", "tag"):
        return ()
    return task.labels or tuple(str(number) for number in range(task.outputs))


def answer(task: TaskConfig, numbers: Numbers, asked: Asked, threshold: float = FITS) -> Answer:
    """Return the answer that numbers of `TaskForward`, joined by window, stand for.

    Of the windows of a long sound the mean counts; where spans are searched, those of all windows do.
    """
    return _ANSWERS[task.kind](task, numbers, asked, threshold)


def _classified(task: TaskConfig, numbers_WO: Numbers, asked: Asked, threshold: float) -> Prediction:
    labels, row_O = labels_of(task), numbers_WO.mean(axis=0)
    best = int(row_O.argmax())
    return Prediction(labels[best], float(row_O[best]), dict(zip(labels, row_O.tolist(), strict=True)))


def _tagged(task: TaskConfig, numbers_WO: Numbers, asked: Asked, threshold: float) -> Tags:
    told = _classified(task, numbers_WO, asked, threshold)
    fitting = [label for label, probability in told.top(len(told.probabilities)) if probability >= threshold]
    return Tags(told.label, told.probability, told.probabilities, fitting)


def _chosen(task: TaskConfig, numbers_WN: Numbers, asked: Asked, threshold: float) -> Choice:
    texts = asked.question.choices
    weights_WN = np.exp(numbers_WN[:, : len(texts)] - numbers_WN[:, : len(texts)].max(axis=1, keepdims=True))
    row_N = (weights_WN / weights_WN.sum(axis=1, keepdims=True)).mean(axis=0)
    best = int(row_N.argmax())
    return Choice(texts[best], float(row_N[best]), dict(zip(texts, row_N.tolist(), strict=True)))


def _grounded(task: TaskConfig, numbers_W4: Numbers, asked: Asked, threshold: float) -> Grounding:
    return Grounding(
        in_pixels(numbers_W4.mean(axis=0).tolist(), asked.size), asked.size, asked.question.text, asked.question.medium
    )


def _detected(task: TaskConfig, numbers_WQ5: Numbers, asked: Asked, threshold: float) -> Detection:
    slots_Q5 = numbers_WQ5.mean(axis=0)
    scores_Q = slots_Q5[:, 4]
    boxes = [
        FoundBox(in_pixels(slots_Q5[slot, :4].tolist(), asked.size), float(scores_Q[slot]))
        for slot in np.argsort(-scores_Q, kind="stable")
        if scores_Q[slot] >= threshold
    ]
    return Detection(boxes, float(scores_Q.max()), asked.size, asked.question.text, asked.question.medium)


def _located(task: TaskConfig, numbers_WQ3: Numbers, asked: Asked, threshold: float) -> Moments:
    spans: list[tuple[int, FoundSpan]] = []  # window, what was found in it
    presence = 0.0
    for window, (begin, end) in enumerate(asked.prepared.spans):
        for first, last, score in numbers_WQ3[window].tolist():
            start = begin + first * asked.longest_window
            stop = min(end, begin + last * asked.longest_window)  # behind that there is silence that was added
            if start < stop:
                presence = max(presence, score)
                spans += [(window, FoundSpan(Span(start, stop), score))] if score >= threshold else []
    seconds = max(end for _, end in asked.prepared.spans)
    return Moments(joined(spans), presence, seconds, asked.question.text, asked.question.medium)


def in_pixels(corners: Sequence[float], size: Size) -> Box:
    """Return a box given in shares of the picture's sides, its corners in order.

    The model sees the picture squeezed into a square, nothing cut off, so shares of the one are shares of the other.

    >>> in_pixels([0.5, 0.25, 0.25, 1.0], (200, 100))
    Box(50.0, 25.0, 100.0, 100.0)
    """
    (x0, y0, x1, y1), (width, height) = corners, size
    return Box(min(x0, x1) * width, min(y0, y1) * height, max(x0, x1) * width, max(y0, y1) * height)


def joined(spans: Sequence[tuple[int, FoundSpan]]) -> list[FoundSpan]:
    """Return the spans of a sound's windows in order; what goes on in the next one is one span, as sure as its surest.

    >>> cut = [(0, FoundSpan(Span(8.0, 10.0), 0.7)), (1, FoundSpan(Span(10.0, 11.0), 0.9))]
    >>> joined(cut)
    [FoundSpan(Span(8.00, 11.00), 0.900)]
    """
    out: list[tuple[int, FoundSpan]] = []
    for window, one in sorted(spans, key=lambda pair: pair[1].span):
        for i, (other, before) in enumerate(out):
            if other != window and one.span.start - before.span.end <= APART:
                whole = Span(before.span.start, max(before.span.end, one.span.end))
                out[i] = window, FoundSpan(whole, max(before.score, one.score))
                break
        else:
            out.append((window, one))
    return [one for _, one in sorted(out, key=lambda pair: pair[1].span)]


_ANSWERS: dict[str, Callable[[TaskConfig, Numbers, Asked, float], Answer]] = {
    "classify": _classified,
    "tag": _tagged,
    "choose": _chosen,
    "ground": _grounded,
    "detect": _detected,
    "locate": _located,
}
