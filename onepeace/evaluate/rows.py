"""What is measured: the rows of manifests, and of folders with one sub-folder a class, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from encoders.media import media_kind
from encoders.modality import Modality
from onepeace.manifest import ManifestError, Shards, read_manifest

MEDIA = (Modality.IMAGE, Modality.AUDIO)


@dataclass(frozen=True)
class Medium:
    """A picture or sound: where it lies, not what is in it."""

    place: Shards | Path  # a manifest's shards, or a folder
    reference: str

    def open(self) -> bytes | Path:
        """Return the bytes of a shard's member, or the path of a file.

        Raises:
            ManifestError: no such member or file.
        """
        return self.place / self.reference if isinstance(self.place, Path) else self.place.read(self.reference)

    @property
    def key(self) -> str:
        """What stands for it in the key of a cache."""
        return str((self.place if isinstance(self.place, Path) else self.place.folder).resolve() / self.reference)


@dataclass(frozen=True)
class Row:
    """One item."""

    id: str
    source: str  # as the manifest says, or else the name of its file or folder
    states_source: bool
    label: str | None
    texts: tuple[tuple[str | None, str], ...]  # (language, text)
    media: Mapping[Modality, Medium]
    group: str  # rows of one group are no independent evidence
    image_ref: str | None = None  # the row whose picture belongs to this sound
    in_class_folder: bool = False
    picture: tuple[str, Medium] | None = None  # what belongs to its sound: the id of the picture's row, and the picture
    licence: str | None = None
    cells: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the manifest's own

    def texts_in(self, language: str | None) -> list[str]:
        """Return the texts in a language; None: the English ones, or all where there is none."""
        if language is not None:
            return [text for spoken, text in self.texts if spoken == language]
        return self.texts_in("en") or [text for _, text in self.texts]

    @property
    def caption(self) -> str:
        """Return what stands for the row where it is shown."""
        return next(iter(self.texts_in(None)), None) or self.label or self.id


@dataclass
class Inputs:
    """All rows of some manifests and folders, and what of them cannot be used."""

    rows: list[Row] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)  # (what, why)


def read_inputs(paths: Sequence[Path], where: Mapping[str, Sequence[str]]) -> Inputs:
    """Read manifests and folders together. `where` keeps rows whose columns have one of the given values, as text.

    Raises:
        ManifestError: one cannot be read, an unknown column, an id of two rows, or no row is left.
    """
    inputs = Inputs()
    shards: dict[Path, Shards] = {}
    known: dict[str, tuple[Path, Row]] = {}
    kept: list[Row] = []
    for path in paths:
        if path.is_dir():
            found = [
                (row, {"id": row.id, "source": row.source, "label": row.label}) for row in _of_folder(path, inputs)
            ]
        else:
            place = shards.setdefault(path.parent.resolve(), Shards(path.parent))
            found = [(_of_cells(cells, path, i, place), cells) for i, cells in enumerate(read_manifest(path))]
        for row, cells in found:
            if row.id in known:
                raise ManifestError(f"two rows have the id {row.id!r}: one in {known[row.id][0]}, one in {path}")
            known[row.id] = path, row
            cells = {"source": row.source, **cells}
            if unknown := [column for column in where if column not in cells]:
                raise ManifestError(f"{path} has no column {unknown[0]}; it has {', '.join(cells)}")
            if all(str(cells[column]) in values for column, values in where.items()):
                kept.append(row)
    if not kept:
        conditions = ", ".join(f"{column}={'|'.join(values)}" for column, values in where.items())
        raise ManifestError(f"no row of {', '.join(map(str, paths))}" + (f" has {conditions}" if conditions else ""))
    inputs.rows = [_with_picture(row, known, inputs) for row in kept]
    return inputs


def shares_labels(rows: Sequence[Row]) -> bool:
    """Return whether the rows are of classes, rather than each of its own."""
    labels = [row.label for row in rows]
    if all(row.in_class_folder for row in rows):
        return len(set(labels)) >= 2
    return None not in labels and 2 <= len(set(labels)) <= len(labels) / 2


def _of_cells(cells: Mapping[str, Any], path: Path, number: int, place: Shards) -> Row:
    name = f"{path}:{number}" if cells.get("id") is None else str(cells["id"])
    label = None if cells.get("label") in (None, "") else str(cells["label"])
    return Row(
        id=name,
        source=str(cells["source"]) if cells.get("source") else path.stem,
        states_source=bool(cells.get("source")),
        label=label,
        texts=tuple(_texts(cells, name)),
        media={modality: Medium(place, str(cells[modality])) for modality in MEDIA if cells.get(modality)},
        group=str(cells.get("group") or cells.get("image_ref") or name),
        image_ref=str(cells["image_ref"]) if cells.get("image_ref") else None,
        licence=str(cells["licence"]) if cells.get("licence") else None,
        cells=cells,
    )


def _texts(cells: Mapping[str, Any], name: str) -> list[tuple[str | None, str]]:
    entries = cells.get("texts") or cells.get("text") or []
    texts: list[tuple[str | None, str]] = []
    for entry in [entries] if isinstance(entries, str) else entries:
        if isinstance(entry, str):
            texts.append((None, entry))
        elif isinstance(entry, Mapping) and isinstance(entry.get("text"), str):
            texts.append((entry.get("lang"), entry["text"]))
        else:
            raise ManifestError(f"row {name}: texts must hold strings or {{lang, text}}, got {entry!r}")
    return [(language, text) for language, text in texts if text.strip()]


def _with_picture(row: Row, known: Mapping[str, tuple[Path, Row]], inputs: Inputs) -> Row:
    """Say which picture belongs to a row's sound: that of the row it refers to, or else its own."""
    if Modality.AUDIO not in row.media:
        return row
    name, own = row.image_ref or row.id, row.media.get(Modality.IMAGE)
    referred = known[name][1].media.get(Modality.IMAGE) if name in known else None
    picture = referred or own
    if picture is None:
        if row.image_ref:
            inputs.failures.append((row.id, f"its picture's row, {row.image_ref}, is not in the measured manifests"))
        return row
    return replace(row, picture=(name, picture))


def _of_folder(folder: Path, inputs: Inputs) -> list[Row]:
    """Return the pictures and sounds of a folder; the names of its sub-folders are their labels."""
    rows = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if media_kind(entry) in MEDIA:
                inputs.failures.append((str(entry), "it lies in no class's folder"))
            continue
        label = " ".join(entry.name.replace("_", " ").replace("-", " ").split()) or entry.name
        own = []
        for file in sorted(path for path in entry.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if (kind := media_kind(file)) in MEDIA:
                medium = Medium(folder, str(file.relative_to(folder)))
                name = str(file)
                own.append(
                    Row(
                        name,
                        folder.resolve().name,
                        False,
                        label,
                        (),
                        {Modality(kind): medium},
                        name,
                        in_class_folder=True,
                    )
                )
        if not own:
            inputs.failures.append((str(entry), "no picture and no sound is in this class's folder; it is left out"))
        rows += own
    if not rows:
        raise ManifestError(
            f"{folder} has no folder with pictures or sounds: give a manifest, or a folder with one sub-folder a class"
        )
    return rows
