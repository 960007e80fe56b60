"""Changing a store: one writer at a time; what returned without an error is on the disk and survives a crash.

A write goes to the disk in this order: vectors, then their record in the journal, which makes it count, then the
catalog, which is derived from the journal and catches up with it when a crash came between. Nothing is ever changed in
place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from . import journal
from .catalog import CatalogWriter, Item, State, check_items, refuse_taken
from .durable import WriterLock, flush, now, replacing
from .errors import StoreError
from .index import Progress, VectorIndex, choose
from .integrity import damaged_blocks
from .manifest import MANIFEST_NAME, FileRecord, Manifest, SealedSegment, read_sealed_json, sealed_json, sha256
from .precision import Rows, stored_type, to_stored
from .segments import journal_path, vectors_path
from .state import CATALOG_NAME, CHECK_NAME, StoreState
from .vectors import unit_rows

SEGMENT_BYTES = 256 * 2**20  # of vectors, from which on a segment is sealed
TAIL_ROWS = 50_000  # that are compared one by one beside an index, before they are merged into it,
REWRITING = ".rewriting"  # where a new generation grows
TAIL_SHARE = 0.25  # or this share of the rows that it covers, if that is more


def found_store(folder: Path, manifest: Manifest) -> None:
    """Make an empty store in an empty folder, as a manifest describes it."""
    home = manifest.home(folder)
    home.mkdir()
    begun = journal.encode(1, begin_body(1, 0, manifest))
    vectors_path(home, 1).touch()
    journal_path(home, 1).write_bytes(begun)
    catalog = CatalogWriter(home / CATALOG_NAME)
    try:
        catalog.apply(State(1, 1, len(begun), 0, 0))
        catalog.settle()
    finally:
        catalog.close()
    seal_catalog(home)
    for path in (*home.iterdir(), home):
        flush(path)
    manifest.write(folder)


def begin_body(segment: int, first: int, manifest: Manifest) -> dict[str, Any]:
    """Return the record that opens a segment's journal; from it alone a lost manifest can be written again."""
    told = {name: getattr(manifest, name) for name in ("precision", "index_kind", "recall", "created")}
    return {"kind": "begin", "segment": segment, "first": first, "model": asdict(manifest.model), **told}


def seal_catalog(home: Path) -> None:
    """Write down the checksum of a catalog that nobody writes to any more."""
    path = home / CATALOG_NAME
    content = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    with replacing(home / CHECK_NAME) as aside:
        aside.write_bytes(sealed_json(content))


def catalog_is_sealed(home: Path) -> bool:
    """Tell whether the catalog is as it was when its last writer left."""
    try:
        content = read_sealed_json(home / CHECK_NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    path = home / CATALOG_NAME
    return path.is_file() and content == {"bytes": path.stat().st_size, "sha256": sha256(path)}


class StoreWriter:
    """The only writer of a store, until `close`. Its methods may be called from several threads."""

    def __init__(self, folder: Path, publish: Callable[[StoreState], None], state: StoreState | None = None) -> None:
        """Take the lock, finish what a crash left half done, and open the newest state.

        `publish` is handed every new state. Raises StoreError while another process writes.
        """
        self.folder = folder
        self._publish = publish
        self.merges = True  # by itself, when many rows came since
        self._guard = threading.RLock()
        self._merging: threading.Thread | None = None
        self._merge_error: BaseException | None = None
        self._dirty = False
        self._lock = WriterLock(folder)
        try:
            self._manifest = Manifest.read(folder)
            self._open()
            sweep(folder, self._manifest)
            self.state = StoreState.open(folder, self._manifest, state)
            publish(self.state)
        except BaseException:
            self._close_files()
            self._lock.release()
            raise

    def _open(self) -> None:
        manifest, home = self._manifest, self._manifest.home(self.folder)
        self._catalog: CatalogWriter | None = None
        self._files: list[IO[bytes]] = []
        if not (home / CATALOG_NAME).is_file():
            raise StoreError(f"{home / CATALOG_NAME} is missing: `onepeace index repair {self.folder}` writes it again")
        if (home / CHECK_NAME).is_file() and not catalog_is_sealed(home):
            path = home / CATALOG_NAME  # nothing may be written over it as if it were whole
            raise StoreError(f"{path} is damaged: `onepeace index repair {self.folder}` writes it again")
        self._catalog = CatalogWriter(home / CATALOG_NAME)
        with contextlib.closing(self._catalog.view()) as view:
            self._progress = view.state()
        if self._behind():
            self._touch()
            self._progress = replay(home, manifest, self._catalog, self._progress)
        self._files = [
            open(path(home, manifest.active), "r+b", buffering=0)  # noqa: SIM115 - closed by `_close_files`
            for path in (vectors_path, journal_path)
        ]
        self._cut()

    def _behind(self) -> bool:
        home, progress = self._manifest.home(self.folder), self._progress
        if progress.segment != self._manifest.active:
            return True
        return journal_path(home, progress.segment).stat().st_size > progress.position

    def _row_bytes(self) -> int:
        return self._manifest.dimension * stored_type(self._manifest.precision).itemsize

    def _vectors_end(self) -> int:
        return (self._progress.rows - self._manifest.first_of(self._manifest.active)) * self._row_bytes()

    def _cut(self) -> None:
        """Take away what lies behind the last write that counts."""
        for file, end in zip(self._files, (self._vectors_end(), self._progress.position), strict=True):
            if os.fstat(file.fileno()).st_size != end:
                file.truncate(end)

    def _touch(self) -> None:
        """Note that the catalog is about to change."""
        if not self._dirty:
            home = self._manifest.home(self.folder)
            (home / CHECK_NAME).unlink(missing_ok=True)
            flush(home)
            self._dirty = True

    def __len__(self) -> int:
        return len(self.state)

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken (N,)."""
        return self.state.catalog.find(ids) >= 0

    def of_contents(self, contents: Sequence[str], *, windows: bool = False) -> list[tuple[Item, Rows]]:
        """Return an item and its unit vector (D,) for each hash of content that is here, or for each window of it."""
        catalog = self.state.catalog
        rows = np.array([*catalog.find_content(contents).values()], dtype=np.int64)
        if windows:
            rows = np.concatenate([rows, catalog.windows("content", contents)])
        return list(zip(catalog.items(rows), self.state.vectors.take(rows), strict=True)) if len(rows) else []

    def windows_of(self, ids: Sequence[str]) -> list[Item]:
        """Return the windows of sounds with these ids."""
        catalog = self.state.catalog
        return catalog.items(catalog.windows("id", ids))

    def add(self, items: Sequence[Item], vectors: npt.ArrayLike, *, replace: bool = False) -> None:
        """Add items and their vectors (N, D), which are brought to length one.

        An id that is taken is refused, or with `replace` takes the new item and vector. Raises ValueError (StoreError,
        CatalogError) for what cannot be taken and OSError for a disk that is full; then nothing has changed.
        """
        if len(items) == 0 and np.size(vectors) == 0:
            return
        rows_ND = unit_rows(vectors, self._manifest.dimension)
        if len(rows_ND) != len(items):
            raise ValueError(f"expected one vector an item, got {len(items)} items and {len(rows_ND)} vectors")
        self.add_stored(items, to_stored(rows_ND, self._manifest.precision), replace=replace)

    def add_stored(self, items: Sequence[Item], stored_ND: npt.NDArray[np.generic], *, replace: bool = False) -> None:
        """Add items whose vectors are in the store's own form already."""
        check_items(items)
        with self._guard:
            self._raise_from_merging()
            known = self.state.catalog.find([item.id for item in items])
            if not replace:
                refuse_taken(items, known)
            removed = known[known >= 0].tolist()
            content = stored_ND.tobytes()
            first, checksum = self._progress.rows, zlib.crc32(content)
            body = {
                "kind": "add",
                "first": first,
                "rows": len(items),
                "crc32": checksum,
                "removed": removed,
                "items": [[item.id, item.modality, item.uri, item.metadata, item.content] for item in items],
            }
            numbered = list(enumerate(items, first))
            self._write(body, content, numbered, removed, (first, len(items), checksum))
            if self._vectors_end() >= SEGMENT_BYTES:
                self._next_segment()
            self._merge_when_due()

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Take items away and return how many. Raises CatalogError naming ids that are not here, unless told not to."""
        ids = list(dict.fromkeys(ids))
        with self._guard:
            rows = self.state.catalog.find(ids) if missing_ok else self.state.catalog.rows(ids)
            removed = rows[rows >= 0].tolist()
            if removed:
                self._write({"kind": "delete", "removed": removed}, b"", [], removed, None)
        return len(removed)

    def _write(
        self,
        body: dict[str, Any],
        content: bytes,
        items: list[tuple[int, Item]],
        removed: list[int],
        block: tuple[int, int, int] | None,
    ) -> None:
        before = self._progress
        number = before.number + 1
        record = journal.encode(number, body)
        assert self._catalog is not None
        vectors_file, journal_file = self._files
        self._touch()
        try:
            if content:
                append(vectors_file, self._vectors_end(), content)
            append(journal_file, before.position, record)
            after = State(
                number,
                before.segment,
                before.position + len(record),
                before.rows + len(items),
                before.items + len(items) - len(removed),
            )
            self._catalog.apply(after, items, removed, block)
        except BaseException:
            self._cut()  # it must not come back when the journal is read the next time
            raise
        self._progress = after
        self._show()

    def _show(self) -> None:
        self.state = StoreState.open(self.folder, self._manifest, self.state)
        self._publish(self.state)

    def _next_segment(self) -> None:
        """Seal the segment that has become full, and open another."""
        home, old = self._manifest.home(self.folder), self._manifest.active
        self._refuse_damage(old)
        number, first = self._progress.number + 1, self._progress.rows
        begun = journal.encode(number, begin_body(old + 1, first, self._manifest))
        vectors_path(home, old + 1).write_bytes(b"")
        journal_path(home, old + 1).write_bytes(begun)
        for path in (vectors_path(home, old + 1), journal_path(home, old + 1), home):
            flush(path)
        sealed = SealedSegment(
            old,
            self._manifest.first_of(old),
            first - self._manifest.first_of(old),
            FileRecord.of(self.folder, vectors_path(home, old)),
            FileRecord.of(self.folder, journal_path(home, old)),
        )
        manifest = self._manifest.changed(sealed=(*self._manifest.sealed, sealed), active=old + 1, updated=now())
        manifest.write(self.folder)
        for file in self._files:
            file.close()
        self._manifest = manifest
        assert self._catalog is not None
        progress = State(number, old + 1, len(begun), first, self._progress.items)
        self._catalog.apply(progress)
        self._progress = progress
        self._files = [open(path(home, old + 1), "r+b", buffering=0) for path in (vectors_path, journal_path)]  # noqa: SIM115
        self._show()

    def _refuse_damage(self, segment: int) -> None:
        """Raise StoreError for a damaged segment, which must not be written under a fresh checksum."""
        home, manifest = self._manifest.home(self.folder), self._manifest
        path, number = journal_path(home, segment), journal.first_number(journal_path(home, segment))
        records = list(journal.read(path, number)) if number is not None else []
        first = manifest.first_of(segment)
        expected = manifest.first_of(segment + 1) if segment != manifest.active else self._progress.rows
        rows = sum(record.body.get("rows", 0) for record in records)
        damaged = damaged_blocks(vectors_path(home, segment), records, first, self._row_bytes())
        if damaged or rows != expected - first:
            raise StoreError(f"segment {segment} is damaged: `onepeace index verify {self.folder}` says where")

    def merge_is_due(self) -> bool:
        """Tell whether so many rows came since the last merge that it should be made anew."""
        covered = self.state.index.covered if self.state.index else 0
        due = len(self.state.vectors) - covered > max(TAIL_ROWS, TAIL_SHARE * covered)
        return due and choose(self._manifest.index_kind, len(self.state)) != "exact"

    def _merge_when_due(self) -> None:
        """Begin to merge, beside whatever else is done."""
        if self.merges and self._merging is None and self.merge_is_due():
            self._merging = threading.Thread(target=self._merge_beside, name="onepeace-merge", daemon=True)
            self._merging.start()

    def _merge_beside(self) -> None:
        try:
            self.merge()
        except BaseException as error:  # told to whoever writes next
            self._merge_error = error
        self._merging = None

    def _raise_from_merging(self) -> None:
        error, self._merge_error = self._merge_error, None
        if error is not None:
            raise StoreError(f"the index could not be merged ({error}); what was written is there") from error

    def merge(self, kind: str | None = None, recall: float | None = None, *, progress: Progress | None = None) -> None:
        """Build the structure for approximate search over all rows anew, while others add, and put it in its place.

        `kind` and `recall` replace what the store was made with.
        """
        with self._guard:
            state = self.state
            wanted = self._manifest.changed(
                index_kind=self._manifest.index_kind if kind is None else kind,
                recall=self._manifest.recall if recall is None else recall,
            )
        chosen = choose(wanted.index_kind, len(state))
        record = None
        if chosen != "exact":
            index = VectorIndex.build(state.vectors, state.live, chosen, wanted.recall, progress=progress)
            path = self._manifest.home(self.folder) / f"index-{state.progress.number:012d}.faiss"
            record = index.save(self.folder, path)
        with self._guard:
            old = self._manifest.index
            self._manifest = self._manifest.changed(
                index=record, index_kind=wanted.index_kind, recall=wanted.recall, updated=now()
            )
            self._manifest.write(self.folder)
            self._show()
            if old is not None and (record is None or old.file.path != record.file.path):
                (self.folder / old.file.path).unlink(missing_ok=True)

    def compact(self) -> None:
        """Write everything that is not deleted anew, and remove the old files. Adding waits meanwhile."""
        self._join()
        with self._guard:
            state, old_home = self.state, self._manifest.home(self.folder)
            for segment in (*(sealed.number for sealed in self._manifest.sealed), self._manifest.active):
                self._refuse_damage(segment)
            manifest = rewrite(self.folder, self._manifest, stored_items(state))
            self._close_files()
            manifest.write(self.folder)
            self._manifest, self._dirty = manifest, False
            self._open()
            self.state = StoreState.open(self.folder, manifest)
            self._publish(self.state)
            shutil.rmtree(old_home, ignore_errors=True)
        self.merge()

    def merge_what_waits(self, progress: Progress | None = None) -> None:
        """Return when no merge is under way and none is due."""
        self._join()
        if self.merge_is_due():
            self.merge(progress=progress)

    def _join(self) -> None:
        merging = self._merging
        if merging is not None:
            merging.join()

    def close(self) -> None:
        """Wait for merging, settle the catalog, and let others write."""
        self._join()
        with self._guard:
            home = self._manifest.home(self.folder)
            try:
                settled = self._catalog is not None and self._catalog.settle()
                self._close_files()
                if settled and not (home / CHECK_NAME).is_file():
                    with contextlib.suppress(OSError):  # on a full disk; the next writer does it
                        seal_catalog(home)
            finally:
                self._lock.release()
        self._raise_from_merging()

    def _close_files(self) -> None:
        for file in getattr(self, "_files", []):
            file.close()
        self._files = []
        if getattr(self, "_catalog", None) is not None:
            assert self._catalog is not None
            self._catalog.close()
            self._catalog = None


def append(file: IO[bytes], position: int, content: bytes) -> None:
    """Write all of `content` at a position and wait until it is on the disk."""
    file.seek(position)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def replay(home: Path, manifest: Manifest, catalog: CatalogWriter, progress: State) -> State:
    """Bring the writes into the catalog that are in the journals and not yet in there."""
    while True:
        for record in journal.read(journal_path(home, progress.segment), progress.number + 1, progress.position):
            progress = apply_record(catalog, record, progress)
        if progress.segment >= manifest.active:
            return progress
        progress = progress._replace(segment=progress.segment + 1, position=0)


def apply_record(catalog: CatalogWriter, record: journal.Record, progress: State) -> State:
    """Bring one write into the catalog, and return the state behind it."""
    body = record.body
    items = [(row, Item(*values)) for row, values in enumerate(body.get("items", []), body.get("first", 0))]
    removed = body.get("removed", [])
    after = State(
        record.number,
        progress.segment,
        record.end,
        progress.rows + len(items),
        progress.items + len(items) - len(removed),
    )
    block = (body["first"], body["rows"], body["crc32"]) if body["kind"] == "add" else None
    catalog.apply(after, items, removed, block)
    return after


Stored = tuple[list[Item], npt.NDArray[np.generic]]  # items and their vectors as they lie in files


def stored_items(state: StoreState, at_once: int = 4_096) -> Iterator[Stored]:
    """Yield what is not deleted, in its order."""
    numbered = state.catalog.numbered()
    while some := list(islice(numbered, at_once)):
        rows, items = zip(*some, strict=True)
        yield list(items), state.vectors.stored(np.array(rows))


def rewrite(folder: Path, manifest: Manifest, content: Iterable[Stored]) -> Manifest:
    """Write items into a new generation, and return the manifest that would make it the store's; it is not published.

    The generation grows as a store of its own within the folder, by the same writes as every other.
    """
    aside = folder / REWRITING
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    fresh = manifest.changed(generation=manifest.generation + 1, sealed=(), active=1, index=None, updated=now())
    try:
        found_store(aside, fresh.changed(index_kind="exact"))
        writer = StoreWriter(aside, lambda state: None)
        try:
            for items, stored_ND in content:
                writer.add_stored(items, stored_ND)
        finally:
            writer.close()
        written = Manifest.read(aside)
        os.rename(written.home(aside), written.home(folder))
        flush(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written.changed(index_kind=manifest.index_kind)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what writers that died left behind. The lock must be held."""
    home = manifest.home(folder)
    index = None if manifest.index is None else folder / manifest.index.file.path
    for path in (*folder.glob("generation-*"), folder / REWRITING):
        if path != home:
            shutil.rmtree(path, ignore_errors=True)
    leftovers = [path for path in home.glob("index-*.faiss") if path != index]
    for segment in home.glob("segment-*"):
        if int(segment.stem.removeprefix("segment-")) > manifest.active:
            leftovers.append(segment)
    for path in (*leftovers, *folder.glob(f".{MANIFEST_NAME}.*.part"), *home.glob(".*.part")):
        path.unlink(missing_ok=True)
