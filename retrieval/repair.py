"""Putting a damaged store right: what is derived is made again; what is lost is named, or taken from a snapshot."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import journal
from .catalog import Block, Catalog, CatalogWriter, Item, State
from .durable import WriterLock, now
from .errors import ManifestError, StoreError
from .integrity import FLAG_NAME, Problem, damaged_blocks, flag, problems
from .manifest import MANIFEST_NAME, FileRecord, Manifest, ModelTag, SealedSegment
from .precision import stored_type
from .replay import Contents, records, replay
from .seal import CATALOG_NAME, CHECK_NAME, seal_catalog
from .segments import Segment, VectorRows, journal_path, vectors_path
from .store import Store
from .writer import AT_ONCE, Stored, rewrite, sweep

UNKNOWN = ""  # the checksum of a file that was damaged when its record was lost: none has it


@dataclass
class RepairReport:
    """What was done."""

    problems: list[str]
    restored: int = 0  # items whose vectors came from the snapshot
    lost: list[str] = field(default_factory=list)  # ids of items whose vectors are gone


def repair(folder: Path, *, snapshot: Path | None = None, drop: bool = False) -> RepairReport:
    """Make a damaged store whole. Nothing changes where it has to be said first what may be lost.

    Manifest, catalog and index are made again from the segments. Where vectors themselves are damaged their items are
    taken from `snapshot`, an older copy of the store, where that has the very vectors that were written, or the same
    item with the same content; what it lacks is dropped only if `drop` says so.

    Raises:
        StoreError: no store is there; another process writes; or items would be lost, whose number it tells.
    """
    with contextlib.suppress(ManifestError):
        Manifest.read(folder)
    lock = WriterLock(folder)
    try:
        found = problems(folder)
        report = RepairReport([problem.what for problem in found])
        if any(problem.path.name == MANIFEST_NAME for problem in found):
            rebuild_manifest(folder).write(folder)
            found = problems(folder)
            report.problems += [problem.what for problem in found]
        if found:
            with contextlib.suppress(OSError):  # a full disk; what is removed below may make room
                flag(folder, found)
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
    (home / CHECK_NAME).unlink(missing_ok=True)
    for path in home.glob(f"{CATALOG_NAME}*"):
        path.unlink()
    writer = CatalogWriter(home / CATALOG_NAME)
    try:
        replay(home, manifest, writer, State(0, manifest.segments[0], 0, 0, 0))
        writer.settle()
    finally:
        writer.close()
    seal_catalog(home)


def rebuild_manifest(folder: Path) -> Manifest:
    """Return the manifest that the files of a store tell. Raises StoreError where they tell none.

    Files that are damaged get a checksum that none has, so that they stay known as damaged.
    """
    homes = sorted(path for path in folder.glob("generation-*") if re.fullmatch(r"generation-\d{6}", path.name))
    if not homes:
        raise StoreError(f"{folder} holds no generation of files: restore a snapshot")
    home = homes[-1]  # were there an older one, a writer died between writing this one and its manifest
    told: list[tuple[int, list[journal.Record]]] = []
    for path in sorted(home.glob("segment-*.journal")):
        try:
            first = journal.first_number(path)
        except StoreError as error:
            raise StoreError(f"{error}: restore a snapshot") from error
        if told and first <= told[-1][1][-1].number:
            break  # begun in vain: the one before went on
        written = list(journal.read(path, first))
        if not written:
            raise StoreError(f"{path} is damaged at its beginning: restore a snapshot")
        told.append((int(path.stem.removeprefix("segment-")), written))
    if not told:
        raise StoreError(f"{home} holds no segments: restore a snapshot")
    begun = told[-1][1][0].body
    manifest = Manifest(
        generation=int(home.name.removeprefix("generation-")),
        model=ModelTag(**begun["model"]),
        precision=begun["precision"],
        active=told[-1][0],
        created=begun["created"],
        updated=now(),
    )
    sealed = [_sealed(folder, manifest, number, written, after[0]) for (number, written), (_, after) in pairwise(told)]
    wanted = [one.body for _, written in told for one in written if one.body["kind"] in ("begin", "wanted")][-1]
    return manifest.changed(sealed=tuple(sealed), index_kind=wanted["index_kind"], recall=wanted["recall"])


def _sealed(
    folder: Path, manifest: Manifest, number: int, written: list[journal.Record], next_one: journal.Record
) -> SealedSegment:
    """Return a full segment, of which what is damaged has a checksum that no file has."""
    home = manifest.home(folder)
    path, vectors = journal_path(home, number), vectors_path(home, number)
    first, end = written[0].body["first"], next_one.body["first"]
    blocks = Contents.of(written).blocks
    whole = written[-1].end == path.stat().st_size and written[-1].number + 1 == next_one.number
    vectors_bytes = (end - first) * manifest.row_bytes
    right = vectors.is_file() and vectors.stat().st_size == vectors_bytes and whole
    if right and not damaged_blocks(vectors, blocks, first, manifest.row_bytes):
        record = FileRecord.of(folder, vectors)
    else:
        record = FileRecord(vectors.relative_to(folder).as_posix(), vectors_bytes, UNKNOWN)
    told = FileRecord.of(folder, path)
    return SealedSegment(number, first, end - first, record, told if whole else replace(told, sha256=UNKNOWN))


def _rewrite_what_is_whole(
    folder: Path, found: list[Problem], report: RepairReport, snapshot: Path | None, drop: bool
) -> None:
    """Write a new generation of what can be read, with what `snapshot` has of the rest."""
    manifest = Manifest.read(folder)
    home = manifest.home(folder)
    contents = _contents(home, manifest, found, drop)
    damaged = [block for number in manifest.segments for block in _damaged(home, manifest, number, contents.blocks)]
    broken = {row for block in damaged for row in range(block.first, block.first + block.rows) if row in contents.items}
    with contextlib.ExitStack() as stack:
        older, taken = None, dict[int, int]()
        if snapshot is not None:
            older = stack.enter_context(Store.open(snapshot, verify=True))
            taken = _same_in(older, manifest, damaged, {row: contents.items[row] for row in sorted(broken)})
        report.lost = [contents.items[row].id for row in sorted(broken.difference(taken))]
        report.restored = len(taken)
        if report.lost and not drop:
            raise StoreError(
                f"the vectors of {len(report.lost):,} items are damaged, the first of them {report.lost[0]!r}: give a "
                "snapshot that has them with --snapshot, or leave them out with --drop and embed them again"
            )
        kept = {row: item for row, item in sorted(contents.items.items()) if row not in broken or row in taken}
        written = rewrite(folder, manifest, _whole(home, manifest, kept, older, taken))
    written.write(folder)
    sweep(folder, written)


def _contents(home: Path, manifest: Manifest, found: list[Problem], drop: bool) -> Contents:
    """Return what the journals tell, or where one is damaged the catalog and the writes behind it."""
    damaged = {problem.path for problem in found}
    if not any(path.suffix == ".journal" for path in damaged):
        return Contents.of(record for _, record in records(home, manifest))
    if home / CATALOG_NAME in damaged:
        raise StoreError(f"{home}: both the catalog and a journal are damaged: restore a snapshot")
    with contextlib.closing(Catalog.open(home / CATALOG_NAME)) as catalog:
        progress = catalog.state()
        contents = Contents(dict(catalog.numbered()), blocks=catalog.blocks())
    segment, position = progress.segment, progress.position
    with contextlib.suppress(FileNotFoundError):  # a journal that is gone; the catalog has what it told
        for number, record in records(home, manifest, progress):
            contents.follow(record)
            segment, position = number, record.end
    path = journal_path(home, segment)
    if (segment != manifest.active or (path.is_file() and journal.resumes(path, position))) and not drop:
        raise StoreError(
            f"{path} is damaged at byte {position:,}, and the catalog lacks the writes that follow: restore a "
            "snapshot, or leave them out with --drop"
        )
    return contents


def _damaged(home: Path, manifest: Manifest, number: int, blocks: list[Block]) -> list[Block]:
    """Return the blocks of a segment whose vectors do not match their checksums."""
    path, first = vectors_path(home, number), manifest.first_of(number)
    end = manifest.first_of(number + 1) if number != manifest.active else None
    here = [block for block in blocks if first <= block.first and (end is None or block.first < end)]
    return damaged_blocks(path, here, first, manifest.row_bytes) if path.is_file() else here


def _same_in(older: Store, manifest: Manifest, damaged: list[Block], broken: dict[int, Item]) -> dict[int, int]:
    """Return broken row -> row of an older store that has what was written there. Raises StoreError for another kind.

    It has where the block at the same place has the checksum, or the same item the same content.
    """
    older.require_model(manifest.model)
    theirs = older.current
    if theirs.manifest.precision != manifest.precision:
        raise StoreError(
            f"the vectors of {older.folder} are {theirs.manifest.precision}, those of the store {manifest.precision}: "
            "give a snapshot of this store"
        )
    taken: dict[int, int] = {}
    for block in damaged:
        rows = np.arange(block.first, block.first + block.rows)
        if rows[-1] < len(theirs.vectors) and zlib.crc32(theirs.vectors.stored(rows).tobytes()) == block.crc32:
            taken.update((row, row) for row in rows.tolist() if row in broken)
    known = older.catalog.find([item.id for item in broken.values()]).tolist()
    candidates = [(row, other) for row, other in zip(broken, known, strict=True) if other >= 0 and row not in taken]
    items = older.catalog.items(np.array([other for _, other in candidates], dtype=np.int64))
    for (row, other), item in zip(candidates, items, strict=True):
        if item == broken[row] and item.content is not None and item.content == broken[row].content:
            taken[row] = other
    return taken


def _whole(
    home: Path, manifest: Manifest, items: dict[int, Item], older: Store | None, taken: dict[int, int]
) -> Iterator[Stored]:
    """Yield items and vectors as they lie in files: ours, and those that are `taken` from the older store."""
    vectors = _mapped(home, manifest)
    rows = np.array(list(items), dtype=np.int64)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        foreign = np.array([row in taken for row in some.tolist()])
        stored_ND: npt.NDArray[np.generic] = np.empty((len(some), manifest.dimension), stored_type(manifest.precision))
        stored_ND[~foreign] = vectors.stored(some[~foreign])
        if older is not None and foreign.any():
            stored_ND[foreign] = older.current.vectors.stored(np.array([taken[row] for row in some[foreign].tolist()]))
        yield [items[row] for row in some.tolist()], stored_ND


def _mapped(home: Path, manifest: Manifest) -> VectorRows:
    """Map as much of the segments as there is."""
    segments = []
    for number in manifest.segments:
        path, first = vectors_path(home, number), manifest.first_of(number)
        count = path.stat().st_size // manifest.row_bytes if path.is_file() else 0
        segments.append(Segment.map(path, first, count, manifest.dimension, manifest.precision))
    return VectorRows(segments, manifest.dimension)
