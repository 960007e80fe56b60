"""Classifying many files: found, answered a few at a time, written as they come. N: files, L: labels."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from encoders.media import Audio, Image, media_kind
from onepeace.embedder import BATCH, CHUNK
from onepeace.inputs import MediaError
from onepeace.predict.answers import Prediction
from onepeace.zero_shot import LabelSet, ZeroShotClassifier

WRAPPERS: dict[str | None, Callable[[Any], Any]] = {"image": Image, "audio": Audio}

Failure = tuple[str, str]  # what, why
Answer = Prediction | LabelSet


def media_files(paths: Sequence[Path]) -> tuple[list[Path], list[Failure]]:
    """Return the pictures and sounds among files and in folders, and which of the named files are neither.

    Folders are read with all their sub-folders, in the order of names; hidden files in them are left out.
    """
    found: dict[Path, None] = {}
    failures: list[Failure] = []
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path, onerror=lambda error: failures.append(_of_folder(error))):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
                found |= dict.fromkeys(file for file in files if media_kind(file) in WRAPPERS)
        elif media_kind(path) in WRAPPERS:
            found[path] = None
        else:
            failures.append((str(path), "neither a picture nor a sound" if path.exists() else "no such file"))
    return list(found), failures


def _of_folder(error: OSError) -> Failure:
    return str(error.filename), str(error.strerror)


@dataclass(frozen=True)
class Question:
    """What is asked of every file."""

    classifier: ZeroShotClassifier
    threshold: float | None = None  # of all labels that fit; None: the one that fits best
    batch_size: int = BATCH

    def answers(self, files: Sequence[Path]) -> Iterator[list[tuple[Path, Answer | MediaError]]]:
        """Yield what is known of a part of the files at a time, in order, so that memory does not grow with them."""
        step = CHUNK * self.batch_size
        for start in range(0, len(files), step):
            part = files[start : start + step]
            inputs = [WRAPPERS[media_kind(file)](file) for file in part]
            options = {"batch_size": self.batch_size, "show_progress_bar": False}
            found: Sequence[Answer | MediaError]
            if self.threshold is None:
                found = self.classifier.predict(inputs, errors="return", **options)
            else:
                found = self.classifier.predict_sets(inputs, self.threshold, errors="return", **options)
            yield list(zip(part, found, strict=True))

    def explain(self, path: Path, answer: Answer, folder: Path) -> Path:
        """Draw what drove the answer about a file into a folder, and return where; drawings are never written over.

        Explained is the label that was given, and where there is none the likeliest.
        """
        if isinstance(answer, LabelSet):
            label = max(answer.scores, key=lambda name: answer.scores[name])
        else:
            ((label, _),) = answer.top(1)
        drawing = self.classifier.explain(WRAPPERS[media_kind(path)](path), label)
        return drawing.save(free_png(folder, path.stem))


class Lines:
    """Writes an answer as a line: its path, then labels with their probabilities, tabs between them."""

    def __init__(self, stream: IO[str], top: int = 1) -> None:
        self.stream, self.top = stream, top

    def write(self, path: Path, answer: Answer) -> None:
        """Write one answer."""
        told = [f"{label}\t{probability:.3f}" for label, probability in told_labels(answer, self.top)]
        self.stream.write("\t".join([str(path), *told]) + "\n")


class JsonLines:
    """Writes an answer as a JSON object in a line of its own."""

    def __init__(self, stream: IO[str], top: int = 1) -> None:
        self.stream, self.top = stream, top

    def write(self, path: Path, answer: Answer) -> None:
        """Write one answer."""
        if isinstance(answer, LabelSet):
            told: dict[str, Any] = {"labels": answer.labels, "scores": rounded(answer.scores)}
        else:
            told = {"label": answer.label, "probability": round(answer.probability, 6)}
            shown = answer.probabilities if self.top == 1 else dict(answer.top(self.top))
            told["probabilities"] = rounded(shown)
        self.stream.write(json.dumps({"path": str(path)} | told, ensure_ascii=False) + "\n")


class CsvTable:
    """Writes answers as a table for a spreadsheet: the label and its probability, or a column of scores a label."""

    def __init__(self, stream: IO[str], labels: Sequence[str], top: int = 1, sets: bool = False) -> None:
        self.stream, self.labels, self.top = stream, labels, top
        self._table = csv.writer(stream, lineterminator="\n")
        places = [""] + [f"_{place}" for place in range(2, top + 1)]
        ranked = [name + place for place in places for name in ("label", "probability")]
        self._table.writerow(["path", "labels", *labels] if sets else ["path", *ranked])

    def write(self, path: Path, answer: Answer) -> None:
        """Write one answer."""
        if isinstance(answer, LabelSet):
            scores = [f"{answer.scores[label]:.6f}" for label in self.labels]
            self._table.writerow([path, ";".join(answer.labels), *scores])
        else:
            told = told_labels(answer, self.top)
            self._table.writerow([path, *(cell for label, value in told for cell in (label, f"{value:.6f}"))])


def free_png(folder: Path, stem: str) -> Path:
    """Return where a drawing goes: under its name, with a number where that is taken."""
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.png" for number in itertools.count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def told_labels(answer: Answer, top: int) -> list[tuple[str, float]]:
    """Return the labels that an answer is told with: its own, and behind it the next best until there are `top`."""
    if isinstance(answer, LabelSet):
        return [(label, answer.scores[label]) for label in answer.labels]
    own = answer.label, answer.probability
    return [own, *(pair for pair in answer.top(top) if pair[0] != answer.label)][:top]


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Return the scores with six digits behind the point."""
    return {label: round(score, 6) for label, score in scores.items()}


def labels_of_file(path: Path) -> list[str]:
    """Return the labels in a text file, one a line; empty lines are left out.

    Raises:
        ValueError: the file cannot be read as UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a UTF-8 text with one label a line") from error
    return [line.strip() for line in lines if line.strip()]
