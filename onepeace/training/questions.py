"""What a task learns from: rows of a manifest as questions with their answers, and which rows are left out and why."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from encoders.media import image_size
from encoders.modality import Modality
from onepeace.evaluate.rows import Medium, Row, read_inputs
from onepeace.model.task_head import CORNERS, TaskKind, choice_text
from onepeace.training.official_tables import read_official

log = logging.getLogger(__name__)

SECOND = "image2"  # column of the second picture of two
Layout = Literal["manifest", "official"]


class Opened(Hashable, Protocol):
    """A picture or sound that can be opened; equal ones are the same."""

    @property
    def key(self) -> str:
        """What stands for it in the key of a cache."""

    def open(self) -> bytes | Path:
        """Return its bytes, or where it lies."""


@dataclass(frozen=True)
class Question:
    """What is shown and asked, and what the right answer is. Which of the answers counts depends on the task's kind."""

    id: str
    source: str
    licence: str | None
    texts: tuple[str, ...] = ()  # one; where texts are chosen among, all of them; none where the task reads no text
    media: Mapping[Modality, tuple[Opened, ...]] = field(default_factory=dict)  # a pair of pictures: two
    answers: Mapping[str, float] = field(default_factory=dict)  # label -> how right it is, in (0, 1]
    right: int | None = None  # which of the texts
    box: tuple[float, ...] | None = None  # left, top, right, bottom, in shares of the picture
    boxes: tuple[tuple[float, ...], ...] | None = None  # the same, any number; ...
    spans: tuple[tuple[float, ...], ...] | None = None  # start, end in seconds


class UnusableError(ValueError):
    """A row that cannot teach; the message says why, in words that fit many rows."""


@dataclass(frozen=True)
class Wanted:
    """What questions must have."""

    kind: TaskKind
    modalities: tuple[Modality, ...]
    pictures: int = 1


def read_questions(
    paths: Sequence[Path],
    where: Mapping[str, Sequence[str]],
    wanted: Wanted,
    name: str,
    layout: Layout = "manifest",
    root: Path | None = None,
) -> list[Question]:
    """Return the questions of manifests, or of folders with one sub-folder a class; or of official tables.

    Rows that cannot be used are counted in the log. `name` is what messages call the data.

    Raises:
        ValueError: a file cannot be read, or no row is left.
    """
    if layout == "official":
        rows = read_official(paths, where, wanted.kind, wanted.modalities, wanted.pictures, root)
    else:
        rows = read_inputs(paths, where).rows
    return usable(rows, lambda row: _question(row, wanted), name)


def usable(rows: Sequence[Any], make: Callable[[Any], Question], name: str) -> list[Question]:
    """Return what `make` makes of the rows, but of those that it refuses as unusable: these are counted in the log.

    Raises:
        ValueError: no row is left.
    """
    questions: list[Question] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            questions.append(make(row))
        except UnusableError as why:
            reasons[str(why)] += 1
    counted = "; ".join(f"{count} {why}" for why, count in reasons.most_common())
    if not questions:
        raise ValueError(f"{name}: none of the {len(rows)} rows can be used: {counted}")
    if reasons:
        log.warning("%s: %d of %d rows are left out: %s", name, reasons.total(), len(rows), counted)
    return questions


def vocabulary(questions: Sequence[Question], most: int | None = None) -> tuple[str, ...]:
    """Return the labels that answer the questions, the most frequent first; `most`: no more than so many of them.

    >>> asked = [Question("1", "", None, answers={"two": 1.0}), Question("2", "", None, answers={"two": 0.3, "no": 1})]
    >>> vocabulary(asked)
    ('two', 'no')
    """
    counts = Counter(label for question in questions for label in question.answers)
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    return tuple(ordered[:most])


def _question(row: Row, wanted: Wanted) -> Question:
    media: dict[Modality, tuple[Opened, ...]] = {}
    for modality in wanted.modalities:
        if modality is Modality.TEXT:
            continue
        if modality not in row.media:
            raise UnusableError(f"have no {modality}")
        media[modality] = (row.media[modality],)
    if wanted.pictures == 2:
        if not row.cells.get(SECOND):
            raise UnusableError(f"have no {SECOND}")
        second = row.cells[SECOND]
        if isinstance(second, str):
            second = Medium(row.media[Modality.IMAGE].place, second)
        media[Modality.IMAGE] += (second,)
    text = next(iter(row.texts_in(None)), "")
    texts: tuple[str, ...] = (text,) if Modality.TEXT in wanted.modalities else ()
    if texts and not text and wanted.kind != "choose":
        raise UnusableError("have no text")
    found = Question(row.id, row.source, row.licence, texts, media)
    return ANSWERS[wanted.kind](found, {"label": row.label, **row.cells})


def with_labels(question: Question, cells: Mapping[str, Any]) -> Question:
    """Add the answers of `answers`, a list of {answer, score} or of texts, or else the one of `label`.

    Raises:
        UnusableError: there is none, or a score outside (0, 1].
    """
    answers: dict[str, float] = {}
    for entry in listed(cells, "answers") or ():
        if isinstance(entry, str):
            answer, score = entry, 1.0
        elif isinstance(entry, Mapping) and entry.get("answer") is not None:
            answer, (score,) = str(entry["answer"]), numbers([entry.get("score", 1.0)], 1, "score")
        else:
            raise UnusableError("have answers that are neither texts nor {answer, score}")
        if not 0.0 <= score <= 1.0:
            raise UnusableError("have an answer whose score is outside [0, 1]")
        if answer.strip() and score > 0.0:
            answers[answer.strip()] = max(score, answers.get(answer.strip(), 0.0))
    label = cells.get("label")
    if not answers and label is not None and (named := label_text(label)):
        answers[named] = 1.0
    if not answers:
        raise UnusableError("have no answer" if "answers" in cells else "have no label")
    return replace(question, answers=answers)


def with_one_label(question: Question, cells: Mapping[str, Any]) -> Question:
    """Add the one answer of `label`. Raises UnusableError where there is none."""
    label = label_text(cells.get("label"))
    if not label:
        raise UnusableError("have no label")
    return replace(question, answers={label: 1.0})


def with_choices(question: Question, cells: Mapping[str, Any]) -> Question:
    """Make a text of the question and each of `choices`; `label` is the right one.

    Raises:
        UnusableError: fewer than two, or two that are equal, or the right one is not among them.
    """
    choices = [label_text(choice) for choice in listed(cells, "choices") or ()]
    if len(choices) < 2:
        raise UnusableError("have fewer than two choices")
    if not all(choices) or len(set(choices)) < len(choices):
        raise UnusableError("have choices that are empty or equal")
    label = label_text(cells.get("label"))
    if label not in choices:
        raise UnusableError("have choices without the right one" if label else "have no label")
    texts = tuple(choice_text(question.texts[0], choice) for choice in choices)
    return replace(question, texts=texts, right=choices.index(label))


def with_box(question: Question, cells: Mapping[str, Any]) -> Question:
    """Add the box of `box`, in pixels of the picture as it is shown.

    Raises:
        UnusableError: there is none, its corners are out of order or outside the picture, or that cannot be read.
    """
    return replace(question, box=_shares_of_box(cells, question))


def with_boxes(question: Question, cells: Mapping[str, Any]) -> Question:
    """Add the boxes of `boxes`, any number of them, as `with_box` takes one; without these the one of `box`.

    Raises:
        UnusableError: there is neither, or a box that `with_box` refuses.
    """
    if listed(cells, "boxes") is None and listed(cells, "box") is not None:
        return replace(question, boxes=(_shares_of_box(cells, question),))
    boxes = [numbers(box, CORNERS, "box") for box in _several(cells, "boxes")]
    return replace(question, boxes=tuple(box_in_shares(box, question) for box in boxes))


def with_spans(question: Question, cells: Mapping[str, Any]) -> Question:
    """Add the spans of `spans`, any number of [start, end] in seconds.

    Raises:
        UnusableError: there is no such list, or one of them ends before it starts, or starts before the sound.
    """
    spans = tuple(numbers(span, 2, "span") for span in _several(cells, "spans"))
    if any(not 0.0 <= start < end for start, end in spans):
        raise UnusableError("have a span whose ends are out of order or before the sound")
    return replace(question, spans=spans)


def _shares_of_box(cells: Mapping[str, Any], question: Question) -> tuple[float, ...]:
    return box_in_shares(numbers(listed(cells, "box"), CORNERS, "box"), question)


def _several(cells: Mapping[str, Any], column: str) -> list[Any]:
    entries = listed(cells, column)
    if entries is None:
        raise UnusableError(f"have no {column}: an empty list says that nothing is there")
    return entries


def box_in_shares(box: Sequence[float], question: Question) -> tuple[float, ...]:
    """Return (left, top, right, bottom) in shares of the question's picture. Raises UnusableError."""
    left, top, right, bottom = box
    if left >= right or top >= bottom:
        raise UnusableError("have a box whose corners are out of order")
    try:
        width, height = _size(question.media[Modality.IMAGE][0])
    except ValueError as error:  # MediaError, ManifestError
        raise UnusableError("have a picture that cannot be read") from error
    if left < 0 or top < 0 or right > width or bottom > height:
        raise UnusableError("have a box outside the picture")
    return left / width, top / height, right / width, bottom / height


@lru_cache(maxsize=4096)  # rows about one picture mostly follow each other
def _size(picture: Opened) -> tuple[int, int]:
    return image_size(picture.open())


def numbers(cell: Any, count: int, name: str) -> tuple[float, ...]:
    """Return a cell as so many finite numbers. Raises UnusableError."""
    if cell is None:
        raise UnusableError(f"have no {name}")
    try:
        values = tuple(float(value) for value in cell)
    except (TypeError, ValueError):
        values = ()
    if len(values) != count or not all(map(math.isfinite, values)):
        raise UnusableError(f"have a {name} that is not {count} numbers")
    return values


def listed(cells: Mapping[str, Any], column: str) -> list[Any] | None:
    """Return a cell that holds a list: as such, or as JSON, since CSV has no lists; None where it is empty.

    Raises:
        UnusableError: it holds something else.
    """
    cell = cells.get(column)
    if cell == "":  # as a CSV says that there is nothing
        return None
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            cell = ()
    if cell is None or isinstance(cell, list):
        return cell
    raise UnusableError(f"have a {column} cell that is no list")


def label_text(label: Any) -> str:
    """Return a label as text: a CSV's true and false, and numbers, are read as such."""
    if label is None:
        return ""
    return str(label).lower() if isinstance(label, bool) else str(label).strip()


# How the cells of a row become a question's answer, by the task's kind.
ANSWERS: dict[str, Callable[[Question, Mapping[str, Any]], Question]] = {
    "classify": with_one_label,
    "tag": with_labels,
    "choose": with_choices,
    "ground": with_box,
    "detect": with_boxes,
    "locate": with_spans,
}
