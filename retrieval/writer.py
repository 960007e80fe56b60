"""Changing a store: one writer at a time; what returned without an error is on the disk and survives a crash.

A write goes to the disk in this order: vectors, then their record in the journal, which makes it count, then the
catalog, which is derived from the journal and catches up with it when a crash came between. Nothing is ever changed in
place. After an error or an interrupt the writer goes on from what is on the disk, as the next one would.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from . import journal
from .catalog import Block, CatalogWriter, Item, State, check_items, refuse_taken
from .durable import WriterLock, flush, now
from .errors import CatalogError, StoreError
from .index import KINDS, Progress, VectorIndex, structure_for
from .integrity import damaged_blocks, too_short
from .manifest import FileRecord, Manifest, SealedSegment
from .precision import Rows, to_stored
from .replay import Contents, replay
from .seal import CATALOG_NAME, CHECK_NAME, fits, read_seal, seal_catalog
from .segments import journal_path, vectors_path
from .state import StoreState
from .vectors import unit_rows

SEGMENT_BYTES = 256 * 2**20  # of vectors, from which on a segment is sealed
TAIL_ROWS = 50_000  # that are compared one by one beside an index, before they are merged into it,
TAIL_SHARE = 0.25  # or this share of the rows that it covers, if that is more
AT_ONCE = 4_096  # items that are rewritten together
REWRITING = ".rewriting"  # where a new generation grows


def check_wanted(kind: str, recall: float) -> None:
    """Raise ValueError for a kind of search that is none, and a recall that cannot be wanted."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not 0.5 <= recall <= 1.0:
        raise ValueError(f"recall must be from 0.5 to 1, got {recall}")


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


class StoreWriter:
    """The only writer of a store, until `close`. Its methods may be called from several threads.

    >>> texts = ["a dog barks", "rain on a roof", "a street at night"]
    >>> items = [Item(f"notes/{n}", "text", f"notes.txt#{n}", {"text": text}) for n, text in enumerate(texts)]
    >>> store = Store.create("notes", model=ModelTag.of(model))
    >>> with store.writing() as writer:  # which closes it: `writer.close()`
    ...     writer.add(items, model.encode(texts))
    ...     writer.known(["notes/0", "notes/7"]).tolist(), writer.parts_of(["notes/0"]), writer.of_contents(["none"])
    ...     list(writer.those(["notes/0", "notes/7"])), writer.of_files(["none"], ["x"]), list(writer.below("x"))
    ...     writer.add_stored([Item("zero", "text", "notes.txt#9")], model.encode(["zero"]))  # float32, as it is stored
    ...     writer.delete(["zero"])
    ...     writer.merge_is_due()  # few items are compared one by one
    ...     writer.merge("hnsw", recall=0.9)
    ...     writer.compact()  # writes what is left anew
    ...     writer.merge_what_waits()
    ([True, False], [], [])
    (['notes/0'], [], [])
    1
    False
    >>> len(store), store.current.index.kind
    (3, 'hnsw')
    >>> store.close()
    """

    def __init__(self, folder: Path, publish: Callable[[StoreState], None], state: StoreState | None = None) -> None:
        """Take the lock, finish what a crash left half done, and open the newest state.

        `publish` is handed every new state. Raises StoreError while another process writes.
        """
        self.folder = folder
        self._publish = publish
        self.merges = True  # by itself, when many rows came since
        self._reorganising = threading.RLock()  # one merge or compaction at a time; taken before the next one
        self._guard = threading.RLock()
        self._merging: threading.Thread | None = None
        self._upkeep_error: StoreError | None = None  # told to whoever writes next
        self._failed = self._closed = False
        self._files: list[IO[bytes]] = []
        self._catalog: CatalogWriter | None = None
        self._lock = WriterLock(folder)
        try:
            self._manifest = Manifest.read(folder)
            self._open(catch_up=True)
            sweep(folder, self._manifest)
            self.state = StoreState.open(folder, self._manifest, state)
            publish(self.state)
        except BaseException:
            self._close_files()
            self._lock.release()
            raise

    def _open(self, *, catch_up: bool) -> None:
        """Open files and catalog; what lies behind the catalog's last write is brought into it, or taken away."""
        manifest, home, path = self._manifest, self._home(), self._home() / CATALOG_NAME
        self._dirty = False
        if not path.is_file():
            raise StoreError(f"{path} is missing: `onepeace index repair {self.folder}` writes it again")
        seal = read_seal(home)
        if seal is not None and not fits(home, seal):  # nothing may be written over it as if it were whole
            raise StoreError(f"{path} is damaged: `onepeace index repair {self.folder}` writes it again")
        self._catalog = CatalogWriter(path)
        self._progress = self._catalog.state()
        journal_file = journal_path(home, manifest.active)
        ahead = self._progress.segment != manifest.active or journal_file.stat().st_size > self._progress.position
        if ahead and (catch_up or self._progress.segment != manifest.active):
            self._touch()
            self._progress = replay(home, manifest, self._catalog, self._progress)
        if self._progress.segment != manifest.active or (
            catch_up and journal.resumes(journal_file, self._progress.position)
        ):
            raise StoreError(f"{journal_file} is damaged: `onepeace index verify {self.folder}` says where")
        self._files = [
            open(path(home, manifest.active), "r+b", buffering=0)  # noqa: SIM115 - closed by `_close_files`
            for path in (vectors_path, journal_path)
        ]
        self._cut()

    def _home(self) -> Path:
        return self._manifest.home(self.folder)

    def _vectors_end(self) -> int:
        return (self._progress.rows - self._manifest.first_of(self._manifest.active)) * self._manifest.row_bytes

    def _cut(self) -> None:
        """Take away what lies behind the last write that counts: its record first, it must not outlive its vectors."""
        vectors_file, journal_file = self._files
        for file, end in ((journal_file, self._progress.position), (vectors_file, self._vectors_end())):
            if wrong := too_short(Path(file.name), end):
                raise StoreError(wrong)
            if os.fstat(file.fileno()).st_size > end:
                file.truncate(end)
                os.fsync(file.fileno())

    def _touch(self) -> None:
        """Note that the catalog is about to change."""
        if not self._dirty:
            (self._home() / CHECK_NAME).unlink(missing_ok=True)
            flush(self._home())
            self._dirty = True

    def _go_on(self) -> None:
        """Open anew what is on the disk: a write that the catalog has counts, another does not."""
        self._close_files()
        self._manifest = Manifest.read(self.folder)
        self._open(catch_up=False)
        self._show()
        self._failed = False

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Keep other threads away, and go on from the disk if the last change failed."""
        with self._guard:
            if self._closed:
                raise StoreError(f"this writer of {self.folder} was closed: open another one")
            if self._failed:
                self._go_on()
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let a change through whole; one that fails or is interrupted half way is taken back."""
        with self._ready():
            self._failed = True  # until it is through, so that an interrupt at any place is noticed
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError, ValueError):  # then before the next change
                    self._go_on()
                raise
            self._failed = False

    def __len__(self) -> int:
        return len(self.state)

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken (N,)."""
        return self.state.catalog.find(ids) >= 0

    def those(self, ids: Sequence[str]) -> dict[str, Item]:
        """Return the items of these ids that are here."""
        catalog = self.state.catalog
        rows = catalog.find(ids)
        return {item.id: item for item in catalog.items(rows[rows >= 0])}

    def of_files(self, contents: Sequence[str], uris: Sequence[str], *, parts: bool = False) -> list[Item]:
        """Return the items of these contents, or also parts of them, that came from one of these uris."""
        return self.state.catalog.of_files(contents, uris, parts=parts)

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield id and uri of every item from a folder."""
        return self.state.catalog.below(folder)

    def of_contents(self, contents: Sequence[str], *, parts: bool = False) -> list[tuple[Item, Rows]]:
        """Return an item and its unit vector (D,) for each hash of content that is here, or for each part of it."""
        catalog = self.state.catalog
        rows = np.array([*catalog.find_content(contents).values()], dtype=np.int64)
        if parts:
            rows = np.concatenate([rows, catalog.parts("content", contents)])
        return list(zip(catalog.items(rows), self.state.vectors.take(rows), strict=True)) if len(rows) else []

    def parts_of(self, ids: Sequence[str]) -> list[Item]:
        """Return the parts of files with these ids."""
        catalog = self.state.catalog
        return catalog.items(catalog.parts("id", ids))

    def add(self, items: Sequence[Item], vectors: npt.ArrayLike, *, replace: bool = False) -> None:
        """Add items and their vectors (N, D), which are brought to length one.

        An id that is taken is refused, or with `replace` takes the new item and vector. Raises ValueError (StoreError,
        CatalogError) for what cannot be taken and OSError for a disk that is full; then nothing has changed. An
        interrupt leaves all of it or nothing.
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
        with self._ready():
            self._raise_from_upkeep()
            known = self.state.catalog.find([item.id for item in items])
            if not replace:
                refuse_taken(items, known)
            removed = known[known >= 0].tolist()
            content = stored_ND.tobytes()
            block = Block(self._progress.rows, len(items), zlib.crc32(content))
            body = {
                "kind": "add",
                **block._asdict(),
                "removed": removed,
                "items": [[item.id, item.modality, item.uri, item.metadata, item.content] for item in items],
            }
            with self._changing():
                self._write(body, content, list(enumerate(items, block.first)), removed, block)
            if self._vectors_end() >= SEGMENT_BYTES:
                self._seal_segment()
            self._merge_when_due()

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Take items away and return how many. Raises CatalogError naming ids that are not here, unless told not to."""
        ids = list(dict.fromkeys(ids))
        with self._ready():
            rows = self.state.catalog.find(ids) if missing_ok else self.state.catalog.rows(ids)
            removed = rows[rows >= 0].tolist()
            if removed:
                with self._changing():
                    self._write({"kind": "delete", "removed": removed}, removed=removed)
        return len(removed)

    def _write(
        self,
        body: dict[str, Any],
        content: bytes = b"",
        items: Sequence[tuple[int, Item]] = (),
        removed: Sequence[int] = (),
        block: Block | None = None,
    ) -> None:
        before = self._progress
        number = before.number + 1
        record = journal.encode(number, body)
        assert self._catalog is not None
        vectors_file, journal_file = self._files
        self._touch()
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
        self._progress = after
        self._show()

    def _show(self) -> None:
        self.state = StoreState.open(self.folder, self._manifest, self.state)
        self._publish(self.state)

    def _seal_segment(self) -> None:
        """Begin another segment, as this one is full; where that fails it grows on, and the next write is told."""
        try:
            with self._changing():
                self._next_segment()
        except (OSError, ValueError) as error:
            self._upkeep_error = StoreError(f"a segment could not be sealed ({error}); what was written is there")

    def _next_segment(self) -> None:
        home, old = self._home(), self._manifest.active
        self._refuse_damage(old)
        first = self._progress.rows
        vectors_path(home, old + 1).write_bytes(b"")
        begun = journal.encode(self._progress.number + 1, begin_body(old + 1, first, self._manifest))
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
        self._go_on()

    def _refuse_damage(self, segment: int) -> None:
        """Raise StoreError for a damaged segment, which must not be written under a fresh checksum."""
        home, manifest = self._home(), self._manifest
        path, first = journal_path(home, segment), manifest.first_of(segment)
        blocks = Contents.of(journal.read(path, journal.first_number(path))).blocks
        expected = manifest.first_of(segment + 1) if segment != manifest.active else self._progress.rows
        damaged = damaged_blocks(vectors_path(home, segment), blocks, first, manifest.row_bytes)
        if damaged or sum(block.rows for block in blocks) != expected - first:
            raise StoreError(f"segment {segment} is damaged: `onepeace index verify {self.folder}` says where")

    def merge_is_due(self) -> bool:
        """Tell whether so many rows came since the last merge that it should be made anew."""
        covered = self.state.index.covered if self.state.index else 0
        due = len(self.state.vectors) - covered > max(TAIL_ROWS, TAIL_SHARE * covered)
        return due and structure_for(self._manifest.index_kind, len(self.state)) != "exact"

    def _merge_when_due(self) -> None:
        """Begin to merge, beside whatever else is done."""
        if self.merges and self._merging is None and self.merge_is_due():
            self._merging = threading.Thread(target=self._merge_beside, name="onepeace-merge", daemon=True)
            try:
                self._merging.start()
            except BaseException:
                # Interrupted: whether it runs is not known, so nobody may wait for its end. `close` waits for a merge
                # that has begun through the lock, and one that begins later finds the writer closed.
                self._merging = None
                raise

    def _merge_beside(self) -> None:
        try:
            self.merge()
        except BaseException as error:
            self._upkeep_error = StoreError(f"the index could not be merged ({error}); what was written is there")
        self._merging = None

    def _raise_from_upkeep(self) -> None:
        error, self._upkeep_error = self._upkeep_error, None
        if error is not None:
            raise error

    def merge(self, kind: str | None = None, recall: float | None = None, *, progress: Progress | None = None) -> None:
        """Build the structure for approximate search over all rows anew, while others add, and put it in its place.

        `kind` and `recall` replace what the store was made with.
        """
        with self._reorganising:
            with self._ready():
                state, before = self.state, self._manifest
            kind = before.index_kind if kind is None else kind
            recall = before.recall if recall is None else recall
            check_wanted(kind, recall)
            chosen = structure_for(kind, len(state))
            record = None
            if chosen != "exact":
                index = VectorIndex.build(state.vectors, state.live, chosen, recall, progress=progress)
                # Under a name of its own: the one before counts until the manifest names this one.
                record = index.save(self.folder, before.home(self.folder) / f"index-{uuid4().hex}.faiss")
            try:
                with self._changing():
                    if (kind, recall) != (before.index_kind, before.recall):
                        # Told here, so that a lost manifest can be written again.
                        self._write({"kind": "wanted", "index_kind": kind, "recall": recall})
                    self._manifest = self._manifest.changed(index=record, index_kind=kind, recall=recall, updated=now())
                    self._manifest.write(self.folder)
                    self._show()
            finally:
                published = Manifest.read(self.folder).index
                for one in (before.index, record):
                    if one is not None and (published is None or one.file.path != published.file.path):
                        (self.folder / one.file.path).unlink(missing_ok=True)

    def compact(self) -> None:
        """Write everything that is not deleted anew, and remove the old files. Adding waits meanwhile."""
        with self._reorganising:
            with self._ready():
                old_home = self._home()
                for segment in self._manifest.segments:
                    self._refuse_damage(segment)
                manifest = rewrite(self.folder, self._manifest, stored_items(self.state))
                try:
                    with self._changing():
                        manifest.write(self.folder)
                        self._go_on()
                finally:
                    published = Manifest.read(self.folder).home(self.folder)
                    for home in {old_home, manifest.home(self.folder)} - {published}:
                        shutil.rmtree(home, ignore_errors=True)
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

    def close(self, *, seal: bool = True) -> None:
        """Wait for merging, settle the catalog, and let others write.

        Without `seal` the catalog gets no checksum, which takes reading it: until the next writer is closed it is
        compared with the journals item by item where it is verified.
        """
        try:
            self._join()
            with self._reorganising, self._guard:
                if self._failed:
                    with contextlib.suppress(OSError, ValueError):  # the next writer does it
                        self._go_on()
                settled = not self._failed and self._catalog is not None and self._catalog.settle()
                self._close_files()
                if seal and settled and not (self._home() / CHECK_NAME).is_file():
                    with contextlib.suppress(OSError, CatalogError):  # on a full disk; the next writer does it
                        seal_catalog(self._home())
        finally:
            self._closed = True
            self._close_files()
            self._lock.release()
        self._raise_from_upkeep()

    def _close_files(self) -> None:
        for file in self._files:
            file.close()
        self._files = []
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None


def append(file: IO[bytes], position: int, content: bytes) -> None:
    """Write all of `content` at a position and wait until it is on the disk."""
    file.seek(position)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


Stored = tuple[list[Item], npt.NDArray[np.generic]]  # items and their vectors as they lie in files


def stored_items(state: StoreState) -> Iterator[Stored]:
    """Yield what is not deleted, in its order."""
    numbered = state.catalog.numbered()
    while some := list(islice(numbered, AT_ONCE)):
        rows, items = zip(*some, strict=True)
        yield list(items), state.vectors.stored(np.array(rows))


def rewrite(folder: Path, manifest: Manifest, content: Iterable[Stored]) -> Manifest:
    """Write items into a new generation, and return the manifest that would make it the store's; it is not published.

    The generation grows as a store of its own within the folder, by the same writes as every other. The lock must be
    held.
    """
    aside = folder / REWRITING
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    fresh = manifest.changed(generation=manifest.generation + 1, sealed=(), active=1, index=None, updated=now())
    try:
        found_store(aside, fresh)
        writer = StoreWriter(aside, lambda state: None)
        writer.merges = False
        try:
            for items, stored_ND in content:
                writer.add_stored(items, stored_ND)
        finally:
            writer.close()
        written = Manifest.read(aside)
        shutil.rmtree(written.home(folder), ignore_errors=True)  # of a run that died before it was published
        os.rename(written.home(aside), written.home(folder))
        flush(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


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
    for path in (*leftovers, *folder.glob(".*.part"), *home.glob(".*.part")):
        path.unlink(missing_ok=True)
