"""The official tables of fine-tuning data: TSV files whose cells hold a task's answers in forms of their own.

Columns, by task: `uniq_id, image, question, refs` (VQA), `uniq_id, text, image1, image2, label` (NLVR2), `image, text,
region_coord` (RefCOCO), and `uniq_id, audio, text` for sounds, where `text` holds what is asked and answered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.modality import Modality
from onepeace.evaluate.rows import Medium, Row
from onepeace.manifest import ManifestError, Shards, read_manifest
from onepeace.model.task_head import TaskKind

SEVERAL, PARTS, CHOICES = "&&", "|!+", "&&&"  # between answers; inside one; between a question and its choices
FIRST_PICTURE, SECOND_PICTURE = "image1", "image2"


@dataclass(frozen=True)
class Inline:
    """A picture whose bytes stand in the table, as base64."""

    content: str

    @property
    def key(self) -> str:
        """What stands for it in the key of a cache."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def open(self) -> bytes:
        """Return the bytes.

        Raises:
            ManifestError: it is no base64.
        """
        try:
            # The web's alphabet, which some tables use, and padding that some leave out.
            plain = self.content.strip().replace("-", "+").replace("_", "/")
            return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except binascii.Error as error:
            raise ManifestError(f"a picture in the table is no base64: {error}") from error


def read_official(
    paths: Sequence[Path],
    where: Mapping[str, Sequence[str]],
    kind: TaskKind,
    modalities: Sequence[Modality],
    pictures: int = 1,
    root: Path | None = None,
) -> list[Row]:
    """Return the rows of official tables, with the cells that a manifest would have.

    A picture is a path, or its bytes in base64; paths count from `root`, or else from the table's folder.

    Raises:
        ManifestError: a table cannot be read, or lacks a column.
        ValueError: the official code has no such task.
    """
    task = (kind, Modality.AUDIO if Modality.AUDIO in modalities else Modality.IMAGE, pictures)
    if task not in _CELLS:
        raise ValueError(f"data.layout: the official data have no task that {kind}s with {', '.join(modalities)}")
    columns, make = _CELLS[task]
    rows = []
    for path in paths:
        shards = Shards(root or path.parent)
        for number, cells in enumerate(read_manifest(path)):
            if missing := [name for name in (*columns, *where) if name not in cells]:
                raise ManifestError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(cells)}")
            if any(str(cells[name]) not in values for name, values in where.items()):
                continue
            rows.append(_row(path, number, cells, make(cells), task[1], shards))
    if not rows:
        raise ManifestError(f"no row of {', '.join(map(str, paths))} fits data.where")
    return rows


def _row(
    path: Path, number: int, cells: Mapping[str, Any], ours: dict[str, Any], modality: Modality, shards: Shards
) -> Row:
    name = f"{path}:{number}" if cells.get("uniq_id") is None else str(cells["uniq_id"])
    medium = cells.get(modality) or cells.get(FIRST_PICTURE)
    if cells.get(SECOND_PICTURE):
        ours[SECOND_PICTURE] = _medium(str(cells[SECOND_PICTURE]), shards)
    return Row(
        id=name,
        source=path.stem,
        states_source=False,
        label=ours.get("label"),
        texts=((None, ours["text"]),) if ours.get("text") else (),
        media={modality: _medium(str(medium), shards)} if medium else {},
        group=name,
        cells=ours,
    )


def _medium(cell: str, shards: Shards) -> Any:
    return Medium(shards, cell) if "." in cell else Inline(cell)  # base64 has no dot, a file's name has


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _questions_of_pictures(cells: Mapping[str, Any]) -> dict[str, Any]:
    """`answer|!+number|!+score`, joined by `&&`. Numbers are those of the official vocabulary; ours is made anew."""
    answers = []
    for entry in _text(cells["refs"]).split(SEVERAL):
        parts = entry.split(PARTS)
        if len(parts) == 3:
            answers.append({"answer": parts[0], "score": parts[2]})
    return {"text": _text(cells["question"]), "answers": answers}


def _pairs_of_pictures(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": _text(cells["text"]), "label": _text(cells["label"]).lower()}


def _phrases(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": _text(cells["text"]), "box": _text(cells["region_coord"]).split(",")}


def _questions_of_sounds(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The question, the choices and the number of the right one, counted from 0, joined by `&&&`."""
    question, *choices = _text(cells["text"]).split(CHOICES)
    right = choices.pop() if choices else ""
    known = right.isdigit() and int(right) < len(choices)
    return {"text": question, "choices": choices, "label": choices[int(right)] if known else None}


def _class_of_sounds(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": _text(cells["text"])}


def _tags_of_sounds(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {"answers": [name.strip() for name in _text(cells["text"]).split(",") if name.strip()]}


# (kind, medium, pictures) -> the columns, and how a row's cells become a manifest's.
_CELLS: dict[tuple[str, Modality, int], tuple[tuple[str, ...], Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    ("tag", Modality.IMAGE, 1): (("image", "question", "refs"), _questions_of_pictures),
    ("classify", Modality.IMAGE, 2): (("text", FIRST_PICTURE, SECOND_PICTURE, "label"), _pairs_of_pictures),
    ("ground", Modality.IMAGE, 1): (("image", "text", "region_coord"), _phrases),
    ("choose", Modality.AUDIO, 1): (("audio", "text"), _questions_of_sounds),
    ("classify", Modality.AUDIO, 1): (("audio", "text"), _class_of_sounds),
    ("tag", Modality.AUDIO, 1): (("audio", "text"), _tags_of_sounds),
}
