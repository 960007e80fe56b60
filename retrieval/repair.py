"""Putting a damaged store right: what is derived is made again; what is lost is named, or taken from a snapshot."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import journal
from .catalog import Catalog, CatalogWriter, Item, State
from .durable import WriterLock, now
from .errors import StoreError
from .integrity import FLAG_NAME, Problem, all_records, damaged_blocks, problems
from .manifest import MANIFEST_NAME, FileRecord, Manifest, ModelTag, SealedSegment
from .precision import stored_type
from .segments import Segment, VectorRows, journal_path, vectors_path
from .state import CATALOG_NAME, CHECK_NAME
from .store import Store
from .writer import Stored, replay, rewrite, seal_catalog, sweep


@dataclass
class RepairReport:
    """What was done."""

    problems: list[str]
    restored: int = 0  # items whose vectors came from the snapshot
    lost: list[str] = field(default_factory=list)  # ids of items whose vectors are gone


def repair(folder: Path, *, snapshot: Path | None = None, drop: bool = False) -> RepairReport:
    """Make a damaged store whole. Nothing changes where it has to be said first what may be lost.

    Manifest, catalog and index are made again from the segments. Where vectors themselves are damaged their items are
    taken from `snapshot`, an older copy of the store, and what it lacks is dropped only if `drop` says so.

    Raises:
        StoreError: another process writes; or items would be lost, whose number it tells.
    """
    lock = WriterLock(folder)
    try:
        found = problems(folder)
        report = RepairReport([problem.what for problem in found])
        if any(problem.path.name == MANIFEST_NAME for problem in found):
            rebuild_manifest(folder).write(folder)
            found = problems(folder)
            report.problems += [problem.what for problem in found]
        if any(not problem.derived for problem in found):
            _rewrite_what_is_whole(folder, found, report, snapshot, drop)
        elif found:
            _make_again(folder, found)
        (folder / FLAG_NAME).unlink(missing_ok=True)
    finally:
        lock.release()
    with Store.open(folder, verify=True) as store, store.writing() as writer:
        if report.problems and writer.state.index is None:
            writer.merge()
    return report


def _make_again(folder: Path, found: list[Problem]) -> None:
    """Write derived files again: the catalog from the journals, and its note; an index is merged later."""
    manifest = Manifest.read(folder)
    home = manifest.home(folder)
    names = {problem.path.name for problem in found}
    if manifest.index is not None and Path(manifest.index.file.path).name in names:
        manifest.changed(index=None, updated=now()).write(folder)
    if names & {CATALOG_NAME, CHECK_NAME}:
        rebuild_catalog(home, manifest)


def rebuild_catalog(home: Path, manifest: Manifest) -> None:
    """Write the catalog again from the journals."""
    for path in home.glob(f"{CATALOG_NAME}*"):
        path.unlink()
    (home / CHECK_NAME).unlink(missing_ok=True)
    writer = CatalogWriter(home / CATALOG_NAME)
    try:
        replay(home, manifest, writer, State(0, _segments(manifest)[0], 0, 0, 0))
        writer.settle()
    finally:
        writer.close()
    seal_catalog(home)


def rebuild_manifest(folder: Path) -> Manifest:
    """Return the manifest that the files of a store tell. Raises StoreError where they tell none."""
    homes = sorted(path for path in folder.glob("generation-*") if re.fullmatch(r"generation-\d{6}", path.name))
    if not homes:
        raise StoreError(f"{folder} holds no generation of files: restore a snapshot")
    home = homes[-1]
    numbers = sorted(int(path.stem.removeprefix("segment-")) for path in home.glob("segment-*.journal"))
    begins: list[dict[str, Any]] = []
    for number in numbers:
        path = journal_path(home, number)
        first = journal.first_number(path)
        begin = None if first is None else next(journal.read(path, first), None)
        if begin is None or begin.body.get("kind") != "begin":
            raise StoreError(f"{path} is damaged at its beginning: restore a snapshot")
        begins.append(begin.body)
    last = begins[-1]
    sealed = []
    for number, told, after in zip(numbers, begins, begins[1:], strict=False):
        sealed.append(
            SealedSegment(
                number,
                told["first"],
                after["first"] - told["first"],
                FileRecord.of(folder, vectors_path(home, number)),
                FileRecord.of(folder, journal_path(home, number)),
            )
        )
    return Manifest(
        generation=int(home.name.removeprefix("generation-")),
        model=ModelTag(**last["model"]),
        precision=last["precision"],
        sealed=tuple(sealed),
        active=numbers[-1],
        index_kind=last["index_kind"],
        recall=last["recall"],
        created=last["created"],
        updated=now(),
    )


def _rewrite_what_is_whole(
    folder: Path, found: list[Problem], report: RepairReport, snapshot: Path | None, drop: bool
) -> None:
    """Write a new generation of what can be read, with what `snapshot` has of the rest."""
    manifest = Manifest.read(folder)
    home = manifest.home(folder)
    items, blocks = _items_and_blocks(home, manifest, found)
    bad = _bad_rows(home, manifest, blocks)
    broken = [item for row, item in items.items() if row in bad]
    with contextlib.ExitStack() as stack:
        older = None if snapshot is None else stack.enter_context(Store.open(snapshot, verify=True))
        if older is not None:
            older.require_model(manifest.model)
        known = older.catalog.find([item.id for item in broken]) if older is not None else np.full(len(broken), -1)
        report.lost = [item.id for item, row in zip(broken, known, strict=True) if row < 0]
        report.restored = len(broken) - len(report.lost)
        if report.lost and not drop:
            raise StoreError(
                f"the vectors of {len(report.lost):,} items are damaged, the first of them {report.lost[0]!r}: give a "
                "snapshot that has them with --snapshot, or leave them out with --drop and embed them again"
            )
        written = rewrite(folder, manifest, _whole(home, manifest, items, bad, older))
    written.write(folder)
    sweep(folder, written)


def _items_and_blocks(
    home: Path, manifest: Manifest, found: list[Problem]
) -> tuple[dict[int, Item], dict[int, tuple[int, int]]]:
    """Return what is not deleted, by row, and what was written together, from the catalog or from the journals."""
    damaged = {problem.path for problem in found}
    if home / CATALOG_NAME not in damaged:
        with contextlib.closing(Catalog.open(home / CATALOG_NAME)) as catalog:
            return dict(catalog.numbered()), catalog.blocks()
    if any(path.suffix == ".journal" for path in damaged):
        raise StoreError(f"{home}: both the catalog and a journal are damaged: restore a snapshot")
    items: dict[int, Item] = {}
    blocks: dict[int, tuple[int, int]] = {}
    for record in all_records(home, manifest):
        for row in record.body.get("removed", []):
            items.pop(row, None)
        for row, values in enumerate(record.body.get("items", []), record.body.get("first", 0)):
            items[row] = Item(*values)
        if record.body["kind"] == "add":
            blocks[record.body["first"]] = (record.body["rows"], record.body["crc32"])
    return items, blocks


def _bad_rows(home: Path, manifest: Manifest, blocks: dict[int, tuple[int, int]]) -> set[int]:
    """Return the rows whose vectors do not match their checksums."""
    row_bytes = manifest.dimension * stored_type(manifest.precision).itemsize
    bad: set[int] = set()
    segments = _segments(manifest)
    for number in segments:
        first = manifest.first_of(number)
        end = manifest.first_of(number + 1) if number != manifest.active else 2**62
        records = [
            journal.Record(0, {"kind": "add", "first": start, "rows": rows, "crc32": crc32}, 0, 0)
            for start, (rows, crc32) in sorted(blocks.items())
            if first <= start < end
        ]
        path = vectors_path(home, number)
        if not path.is_file():
            path.touch()
        for start, stop in damaged_blocks(path, records, first, row_bytes):
            bad.update(range(start, stop))
    return bad


def _whole(
    home: Path, manifest: Manifest, items: dict[int, Item], bad: set[int], older: Store | None, at_once: int = 4_096
) -> Iterator[Stored]:
    """Yield items and vectors as they lie in files: ours, and where those are damaged the older store's."""
    segments = []
    for number in _segments(manifest):
        first, path = manifest.first_of(number), vectors_path(home, number)
        row_bytes = manifest.dimension * stored_type(manifest.precision).itemsize
        segments.append(
            Segment.map(path, first, path.stat().st_size // row_bytes, manifest.dimension, manifest.precision)
        )
    vectors = VectorRows(segments, manifest.dimension)
    good = [(row, item) for row, item in sorted(items.items()) if row not in bad]
    for start in range(0, len(good), at_once):
        rows, some = zip(*good[start : start + at_once], strict=True)
        yield list(some), vectors.stored(np.array(rows))
    if older is None:
        return
    broken = [item for row, item in sorted(items.items()) if row in bad]
    known = older.catalog.find([item.id for item in broken])
    taken = [(item, row) for item, row in zip(broken, known, strict=True) if row >= 0]
    for start in range(0, len(taken), at_once):
        some, rows = zip(*taken[start : start + at_once], strict=True)
        yield list(some), older.current.vectors.stored(np.array(rows))


def _segments(manifest: Manifest) -> list[int]:
    return [*(sealed.number for sealed in manifest.sealed), manifest.active]
