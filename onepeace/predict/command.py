"""`onepeace predict`: files and manifests as questions, answers written as they come."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from encoders.media import Audio, Image, media_kind
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.classify import Failure, free_png, media_files
from onepeace.inputs import MediaError
from onepeace.manifest import ManifestError, Shards, read_manifest
from onepeace.model.task_head import TaskConfig
from onepeace.predict.answers import Answer, Choice, Detection, Drawn, Grounding, Moments, Prediction, Tags
from onepeace.predict.predictor import CHUNK, TaskPredictor
from onepeace.predict.question import CHOICES, SECOND, WRAPPERS, choices_of, part_names, together
from onepeace.reader import model_folder

DRAWN = ("ground", "detect", "locate")  # kinds whose answers can be drawn
ABSENT = "not present"
KINDS = {"image": "a picture", "audio": "a sound"}


@dataclass(frozen=True)
class Asked:
    """A file or row, and what is asked of it; media are opened when it is its turn."""

    name: str  # its path, or its id
    parts: Mapping[str, Any]  # as `TaskPredictor.predict` takes them, or `Cell`s
    text: str = ""

    def opened(self) -> dict[str, Any]:
        """Return the parts. Raises ManifestError."""
        return {key: part.open(key) if isinstance(part, Cell) else part for key, part in self.parts.items()}


@dataclass(frozen=True)
class Cell:
    """A picture or sound of a manifest."""

    shards: Shards
    reference: str

    def open(self, part: str) -> Image | Audio:
        """Return it as an input. Raises ManifestError."""
        content = self.shards.read(self.reference)
        return Audio(content) if part == "audio" else Image(content)


def task_of(model: str) -> TaskConfig:
    """Return the task of a model, whose weights are not loaded.

    Raises:
        CheckpointError: no such model, or one that embeds.
    """
    folder = open_folder(model_folder(model))
    if folder.task is None:
        raise CheckpointError(
            f"--model {model} embeds and was trained for no task: `onepeace classify --labels` asks it without training"
        )
    return folder.task


def of_files(
    paths: Sequence[Path], task: TaskConfig, texts: Sequence[str], choices: Sequence[str], second: Path | None
) -> tuple[list[Asked], list[Failure]]:
    """Return every text asked of every file, and what of the files cannot be asked.

    Raises:
        ValueError: the task reads more than files and texts, or less.
    """
    reads = part_names(task)
    media = [part for part in ("image", "audio") if part in reads]
    if len(media) > 1:
        raise ValueError(f"the model reads {together(reads)}: which belong together, a manifest says: --manifest FILE")
    more: dict[str, Any] = {SECOND: Image(second)} if second else {}
    more |= {CHOICES: list(choices)} if choices else {}
    _check(reads, bool(texts), bool(choices), second is not None, task)
    if not media:
        if paths:
            raise ValueError(f"the model reads {together(reads)}, so it is asked with --text and no files")
        return [Asked(text, {"text": text} | more) for text in texts], []
    if not paths:
        raise ValueError(f"the model reads {together(reads)}: give files or folders, or --manifest FILE")
    files, failures = media_files(paths)
    asked = []
    for file in files:
        kind = media_kind(file)
        if kind not in media:
            failures.append((str(file), f"{KINDS[str(kind)]}, and the model reads {together(reads)}"))
            continue
        wrapped = {media[0]: WRAPPERS[media[0]](str(file))} | more
        asked += [Asked(str(file), wrapped | ({"text": text} if text else {}), text) for text in texts or [""]]
    return asked, failures


def of_manifests(
    manifests: Sequence[Path], task: TaskConfig, where: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> tuple[list[Asked], list[Failure]]:
    """Return what the rows ask, and the rows that ask nothing; `texts`, where given, instead of the rows' own.

    Raises:
        ManifestError: a manifest cannot be read, or lacks a column.
    """
    reads = part_names(task)
    asked: list[Asked] = []
    failures: list[Failure] = []
    for path in manifests:
        shards = Shards(path.parent)
        for number, cells in enumerate(read_manifest(path)):
            if unknown := [column for column in where if column not in cells]:
                raise ManifestError(f"{path} has no column {unknown[0]}; it has {', '.join(cells)}")
            if not all(str(cells[column]) in values for column, values in where.items()):
                continue
            name = f"{path}:{number}" if cells.get("id") is None else str(cells["id"])
            try:
                parts = {part: Cell(shards, str(cells[part])) for part in ("image", SECOND, "audio") if cells.get(part)}
                parts |= {CHOICES: _choices(cells[CHOICES])} if cells.get(CHOICES) else {}  # type: ignore[dict-item]
            except (TypeError, ValueError) as error:
                failures.append((name, str(error)))
                continue
            own: dict[str, Any] = {part: value for part, value in parts.items() if part in reads}
            for text in texts or [_text(cells)]:
                asked.append(Asked(name, own | ({"text": text} if text and "text" in reads else {}), text))
    return asked, failures


def _text(cells: Mapping[str, Any]) -> str:
    """Return a row's text: the first of several."""
    entry = cells.get("text") or cells.get("texts") or ""
    if isinstance(entry, list):
        entry = entry[0]
    return str(entry.get("text") or "") if isinstance(entry, Mapping) else str(entry)


def _choices(cell: Any) -> list[str]:
    """Return a row's choices; in a CSV they are a JSON list."""
    return list(choices_of(json.loads(cell) if isinstance(cell, str) else cell))


def _check(reads: Sequence[str], texts: bool, choices: bool, second: bool, task: TaskConfig) -> None:
    """Refuse options that the task has no use for, and ask for those that it needs."""
    given = {"text": texts, CHOICES: choices, SECOND: second}
    for part, there in given.items():
        if there and part not in reads:
            raise ValueError(f"--{part} is for another model: this one reads {together(reads)}")
        if not there and part in reads and not (part == "text" and task.kind == "choose"):
            raise ValueError(f"the model reads {together(reads)}: give --{part}, or --manifest FILE")


def answers(
    predictor: TaskPredictor, asked: Sequence[Asked], threshold: float, batch_size: int
) -> Iterator[list[tuple[Asked, Answer | ValueError]]]:
    """Yield what is known of a part of the questions at a time, in order, so that memory does not grow with them."""
    step = CHUNK * batch_size
    for start in range(0, len(asked), step):
        part = asked[start : start + step]
        opened: list[dict[str, Any] | ManifestError] = []
        for one in part:
            try:
                opened.append(one.opened())
            except ManifestError as error:
                opened.append(error)
        readable = [value for value in opened if not isinstance(value, ManifestError)]
        found = iter(
            predictor.predict(readable, batch_size, threshold=threshold, errors="return", show_progress_bar=False)
        )
        yield [
            (one, value if isinstance(value, ManifestError) else next(found))
            for one, value in zip(part, opened, strict=True)
        ]


def draw(answer: Answer, asked: Asked, folder: Path) -> None:
    """Draw an answer into a folder; drawings are never written over."""
    assert isinstance(answer, Drawn)
    path = Path(asked.name)
    stem = path.stem if media_kind(path) else re.sub(r"[^\w.-]+", "-", asked.name)
    try:
        answer.save(free_png(folder, stem))
    except MediaError:  # read a moment ago, and gone since
        return


class Lines:
    """Writes an answer as a line: its path or id, the text where there is one, then the answer, tabs between them."""

    def __init__(self, stream: IO[str], top: int) -> None:
        self.stream, self.top = stream, top

    def write(self, asked: Asked, answer: Answer) -> None:
        """Write one answer."""
        name = [asked.name] if asked.name == asked.text or not asked.text else [asked.name, asked.text]
        self.stream.write("\t".join([*name, *self._told(answer)]) + "\n")

    def _told(self, answer: Answer) -> list[str]:
        if isinstance(answer, Grounding):
            return [_corners(answer.box)]
        if isinstance(answer, Detection):
            return [f"{_corners(found.box)}\t{found.score:.3f}" for found in answer.boxes] or [ABSENT]
        if isinstance(answer, Moments):
            spans = [f"{found.span.start:.2f}-{found.span.end:.2f}\t{found.score:.3f}" for found in answer.spans]
            return spans or [ABSENT]
        fitting = len(answer.labels) if isinstance(answer, Tags) and self.top == 1 else self.top
        return [f"{label}\t{probability:.3f}" for label, probability in ranked(answer, max(1, fitting))]


class JsonLines:
    """Writes an answer as a JSON object in a line of its own; `key` names the first of its values: path, or id."""

    def __init__(self, stream: IO[str], key: str, top: int) -> None:
        self.stream, self.key, self.top = stream, key, top

    def write(self, asked: Asked, answer: Answer) -> None:
        """Write one answer."""
        plain = answer.to_dict(self.top) if isinstance(answer, Prediction) and self.top > 1 else answer.to_dict()
        told = {self.key: asked.name} | ({"text": asked.text} if asked.text else {}) | plain
        self.stream.write(json.dumps(told, ensure_ascii=False) + "\n")


class CsvTable:
    """Writes answers as a table for a spreadsheet: a row an answer, or where several things may be found a row each."""

    def __init__(self, stream: IO[str], key: str, kind: str, top: int) -> None:
        self.top = top
        self._table = csv.writer(stream, lineterminator="\n")
        places = ["", *(f"_{place}" for place in range(2, top + 1))]
        name = "choice" if kind == "choose" else "label"
        best = [column + place for place in places for column in (name, "probability")]
        columns = {
            "ground": ["left", "top", "right", "bottom"],
            "detect": ["present", "left", "top", "right", "bottom", "score"],
            "locate": ["present", "start", "end", "score"],
            "tag": ["labels", *best],
        }
        self._table.writerow([key, "text", *columns.get(kind, best)])

    def write(self, asked: Asked, answer: Answer) -> None:
        """Write one answer."""
        for cells in self._rows(answer):
            self._table.writerow([asked.name, asked.text, *cells])

    def _rows(self, answer: Answer) -> list[list[Any]]:
        if isinstance(answer, Grounding):
            return [[f"{number:.1f}" for number in answer.box]]
        if isinstance(answer, Detection):
            boxes = [["true", *(f"{n:.1f}" for n in found.box), f"{found.score:.6f}"] for found in answer.boxes]
            return boxes or [["false", *[""] * 5]]
        if isinstance(answer, Moments):
            spans = [["true", *(f"{n:.3f}" for n in found.span), f"{found.score:.6f}"] for found in answer.spans]
            return spans or [["false", *[""] * 3]]
        labels = [";".join(answer.labels)] if isinstance(answer, Tags) else []
        cells = ((label, f"{probability:.6f}") for label, probability in ranked(answer, self.top))
        return [[*labels, *itertools.chain.from_iterable(cells)]]


def ranked(answer: Prediction | Choice, top: int) -> list[tuple[str, float]]:
    """Return the `top` likeliest labels or texts of an answer, the likeliest first."""
    return sorted(answer.probabilities.items(), key=lambda pair: -pair[1])[:top]


def _corners(box: Sequence[float]) -> str:
    return ",".join(f"{number:.1f}" for number in box)
