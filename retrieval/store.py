"""A store: one folder with vectors, their items and an index, bound together by a manifest. Nothing is half written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy.typing as npt

from .catalog import Catalog, Item
from .durable import appearing, now
from .errors import BusyError, CatalogError, ManifestError, StoreError
from .filters import Where
from .integrity import flagged, problems, too_short
from .manifest import Manifest, ModelTag
from .precision import Precision, Rows
from .seal import CATALOG_NAME
from .segments import journal_path, vectors_path
from .state import StoreState
from .writer import StoreWriter, check_wanted, found_store

CHECKSUM_LIMIT = 256 * 2**20  # bytes; smaller stores have their checksums verified whenever they are opened


class Store:
    """A folder of items that can be searched. Open it with `Store.open`, make it with `Store.create`.

    Any number of processes and threads may read while one writes. A reader keeps the state it has, `current`, until
    `refresh`; the store that writes moves on by itself.

    >>> texts = ["a dog barks", "rain on a roof", "a street at night"]
    >>> items = [Item(f"notes/{n}", "text", f"notes.txt#{n}", {"text": text}) for n, text in enumerate(texts)]
    >>> Store.must_be_free("notes")
    >>> with Store.create("notes", items, model.encode(texts), model=ModelTag.of(model)) as store:
    ...     store.add([Item("dog", "image", "dog.jpg")], model.encode([onepeace.Image("dog.jpg")]))
    ...     store.delete(["notes/2"]), len(store)
    (1, 3)
    >>> store = Store.open("notes")
    >>> store.model.name, store.ids("modality=text"), store.vectors(["dog"]).shape, store.catalog.counts()
    ('onepeace-tiny', ['notes/0', 'notes/1'], (1, 512), {'text': 2, 'image': 1})
    >>> store.require_model(ModelTag.of(model))
    >>> store.created  # doctest: +ELLIPSIS
    '20...+00:00'
    >>> with store.writing() as writer:  # the lock is taken once for many writes
    ...     writer.add([Item("rain", "audio", "rain.ogg")], model.encode([onepeace.Audio("rain.ogg")]))
    >>> store.refresh()  # nobody else has written
    False
    >>> store.close()
    """

    def __init__(self, folder: Path, current: StoreState) -> None:
        self.folder = folder
        self.current = current  # take it once and use that: another thread may `add`
        self._writer: StoreWriter | None = None
        self._users = 0  # of the writer
        self._seals = False  # when the writer is closed
        self._unsealed = False  # the catalog was left so by `add` or `delete`
        self._guard = threading.RLock()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        items: Sequence[Item] = (),
        vectors: npt.ArrayLike = (),
        *,
        model: ModelTag,
        precision: Precision = "float32",
        kind: str = "auto",
        recall: float = 0.98,
    ) -> Store:
        """Make a store, with these items and vectors (N, D) if there are any; it appears whole.

        `precision` says how vectors are written; `kind` how they are searched (see `onepeace index build --help`), and
        `recall` which share of the true 10 nearest an approximate search should find. Raises StoreError when the folder
        holds something.
        """
        check_wanted(kind, recall)
        moment = now()
        manifest = Manifest(
            generation=1,
            model=model,
            precision=precision,
            index_kind=kind,
            recall=recall,
            created=moment,
            updated=moment,
        )
        cls.must_be_free(folder)
        with appearing(Path(os.path.abspath(folder))) as aside:
            found_store(aside, manifest)
            if len(items):
                with cls.open(aside) as store:
                    store.add(items, vectors)
        return cls.open(folder)

    @staticmethod
    def must_be_free(folder: str | os.PathLike[str]) -> None:
        """Raise StoreError unless a store can be made there: nothing exists, or an empty folder."""
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            advice = "choose another, or add to it"
            try:
                Manifest.read(path)
            except ManifestError:  # a store that has lost it, which can be put right
                raise
            except StoreError:
                advice = "it is no store, so name a folder that is not there yet"
            raise StoreError(f"{folder} already exists and is not an empty folder: {advice}")

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool | None = None) -> Store:
        """Open a store to search it. Raises StoreError when it is absent, damaged, or of another format.

        Sizes are always compared. Checksums are compared with `verify=True`, never with `verify=False`, and by default
        for stores below 256 MiB. What a crash left in the journal only is brought into the catalog.
        """
        path = Path(folder)
        manifest = Manifest.read(path)
        if names := flagged(path):
            raise StoreError(
                f"{path} is damaged: {', '.join(names)}. Put it right with `onepeace index repair {path}`, "
                "or restore a snapshot"
            )
        if verify or (verify is None and bytes_below(manifest.home(path)) < CHECKSUM_LIMIT):
            found = problems(path)
            if found:
                raise StoreError(f"{found[0].what}; `onepeace index verify {path}` says what to do")
        _catch_up(path, manifest)
        return cls(path, _newest(path))

    @contextmanager
    def writing(self, *, merging: bool = True) -> Iterator[StoreWriter]:
        """Keep the right to write for several writes, which is much faster than taking it for each.

        Every write is on the disk when it returns. Without `merging` the index is left alone meanwhile. Raises
        StoreError naming who holds the right.
        """
        with self._writing(seal=True) as writer:
            writer.merges = writer.merges and merging
            yield writer

    @contextmanager
    def _writing(self, *, seal: bool) -> Iterator[StoreWriter]:
        with self._guard:
            if self._writer is None:
                self._writer, self._seals = StoreWriter(self.folder, self._publish, self.current), False
            self._users += 1
            self._seals = self._seals or seal
            writer = self._writer
        try:
            yield writer
        finally:
            with self._guard:
                self._users -= 1
                if self._users == 0:
                    self._writer, self._unsealed = None, not self._seals
                    writer.close(seal=self._seals)

    def add(
        self,
        items: Sequence[Item],
        vectors: npt.ArrayLike,
        *,
        replace: bool = False,
        model: ModelTag | None = None,
    ) -> None:
        """Add items and vectors (N, D): on return they are on the disk and will survive a crash.

        An id that is taken is refused, or with `replace` takes the new item and vector. `model`, where given,
        must be the store's. Raises ValueError (StoreError, CatalogError) and OSError; then nothing has changed, unless
        the message says that what was written is there.
        """
        if model is not None:
            self.require_model(model)
        with self._writing(seal=False) as writer:
            writer.add(items, vectors, replace=replace)

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Take items away, as durably, and return how many. Raises CatalogError naming ids that are not here."""
        with self._writing(seal=False) as writer:
            return writer.delete(ids, missing_ok=missing_ok)

    def refresh(self) -> bool:
        """Go on to the newest state, if another process has written one; return whether it had."""
        before = self.current
        if self._writer is not None:
            return False
        manifest = Manifest.read(self.folder)
        if manifest == before.manifest and before.catalog.state() == before.progress:
            return False
        self.current = _newest(self.folder, before)
        return True

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError unless `model` is the one that made this store's vectors."""
        self.model.require(model, f"store {self.folder}")

    @property
    def model(self) -> ModelTag:
        """The model that made the vectors."""
        return self.current.manifest.model

    @property
    def created(self) -> str:
        """When it was made (UTC, ISO 8601)."""
        return self.current.manifest.created

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.current.catalog

    def ids(self, where: Where) -> list[str]:
        """The ids of the items that pass a filter. Raises ValueError naming an unknown field."""
        catalog = self.current.catalog
        return [item.id for item in catalog.items(catalog.select(where))]

    def vectors(self, ids: Sequence[str]) -> Rows:
        """The stored unit vectors of these items (N, D), in the order asked. Raises CatalogError for an unknown id."""
        return self.current.vectors_of(ids)

    def __len__(self) -> int:
        return len(self.current)

    def _publish(self, state: StoreState) -> None:
        self.current = state

    def close(self) -> None:
        """Let go of the files, and seal the catalog if `add` or `delete` left that to do."""
        if self._unsealed:
            with contextlib.suppress(StoreError, OSError):  # someone else writes, and does it
                StoreWriter(self.folder, self._publish, self.current).close()
            self._unsealed = False
        self.current.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _newest(folder: Path, before: StoreState | None = None) -> StoreState:
    """Open the newest state, or a newer one when a writer removes this one's files under our hands."""
    while True:
        manifest = Manifest.read(folder)
        try:
            return StoreState.open(folder, manifest, before)
        except (StoreError, CatalogError, FileNotFoundError) as error:
            if Manifest.read(folder) == manifest:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(f"{error}: `onepeace index verify {folder}` says what to do") from error


def _catch_up(folder: Path, manifest: Manifest) -> None:
    """Bring writes that a crash left in the journal only into the catalog, unless a writer is at it.

    Raises StoreError for files that are shorter than what was written, and for writes that cannot be read.
    """
    home = manifest.home(folder)
    try:
        with contextlib.closing(Catalog.open(home / CATALOG_NAME)) as catalog:
            progress = catalog.state()
    except CatalogError:
        return  # opening says what is wrong
    if progress.segment == manifest.active:
        path, rows = journal_path(home, manifest.active), progress.rows - manifest.first_of(manifest.active)
        ends = {path: progress.position, vectors_path(home, manifest.active): rows * manifest.row_bytes}
        wrong = [what for what in (too_short(path, end) for path, end in ends.items()) if what is not None]
        if Manifest.read(folder) != manifest:
            return  # a writer went on; the newest state is opened
        if wrong:
            raise StoreError(f"{wrong[0]}; `onepeace index verify {folder}` says what to do")
        if path.stat().st_size == progress.position:
            return
    try:
        StoreWriter(folder, lambda state: None).close()
    except (BusyError, OSError):
        return  # someone is writing, or nobody may: what is in the catalog is whole


def bytes_below(folder: Path) -> int:
    """Return how many bytes the files in a folder have, and in those below it."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a writer removed it
                size += Path(parent, name).stat().st_size
    return size
