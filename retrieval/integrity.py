"""Is every byte of a store as it was written? And what to do where it is not."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import journal
from .catalog import Block, Catalog, State
from .durable import WriterLock, replacing
from .errors import BusyError, CatalogError, ManifestError, StoreError
from .manifest import MANIFEST_NAME, Manifest, SealedSegment
from .replay import Contents, block_of, records
from .seal import CATALOG_NAME, CHECK_NAME, fits, read_seal
from .segments import journal_path, vectors_path

FLAG_NAME = "damage.json"  # written by `verify`, removed by `repair`: a store with it is not opened


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    path: Path
    what: str  # one sentence that names it
    derived: bool  # it can be made again from the others
    rows: tuple[tuple[int, int], ...] = ()  # the first row of damaged vectors, and the one behind the last


def flagged(folder: Path) -> list[str]:
    """Return the files that `verify` found damaged, and that were not repaired since."""
    try:
        names: list[str] = json.loads((folder / FLAG_NAME).read_bytes())["files"]
        return names
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        return [FLAG_NAME]


def flag(folder: Path, found: list[Problem]) -> None:
    """Keep a damaged store from being opened. The lock must be held. Raises OSError where nobody may write."""
    with replacing(folder / FLAG_NAME) as aside:
        names = [problem.path.relative_to(folder).as_posix() for problem in found]
        aside.write_text(json.dumps({"files": names}, indent=2) + "\n", encoding="utf-8")


def verify_store(folder: Path) -> list[Problem]:
    """Return what `problems` does, and keep a damaged store from being opened until it is repaired."""
    found = problems(folder)
    flagged_before = (folder / FLAG_NAME).exists()
    if not found and not flagged_before:
        return found
    try:
        lock = WriterLock(folder)
    except (BusyError, OSError):  # somebody writes, who will be told when they read; or nobody may write
        return found
    try:
        found = problems(folder)
        if found:
            flag(folder, found)
        else:
            (folder / FLAG_NAME).unlink(missing_ok=True)
    except OSError:  # a full disk
        pass
    finally:
        lock.release()
    return found


def problems(folder: Path) -> list[Problem]:
    """Compare every byte of a store with its checksums, and its parts with one another.

    A store may be written to meanwhile: what is found then may only be its parts at different moments, so it is looked
    at again until nothing changed, or the same is found. Newest writes are left to the next time.
    """
    before: set[Problem] = set()
    while True:
        moment = _moment(folder)
        try:
            found = _problems(folder)
        except FileNotFoundError:  # a file that was there when it was looked for
            if _moment(folder) == moment:
                raise
            continue
        if not found or _moment(folder) == moment:
            return found
        if again := [problem for problem in found if problem in before]:
            return again
        before = set(found)


def _moment(folder: Path) -> tuple[bytes | None, State | None]:
    """Return what is another after every write."""
    try:
        told = (folder / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        return None, None
    try:
        with contextlib.closing(Catalog.open(Manifest.read(folder).home(folder) / CATALOG_NAME)) as catalog:
            return told, catalog.state()
    except (StoreError, CatalogError):
        return told, None


def _problems(folder: Path) -> list[Problem]:
    try:
        manifest = Manifest.read(folder)
    except ManifestError as error:
        return [Problem(folder / MANIFEST_NAME, str(error), derived=True)]
    home = manifest.home(folder)
    found: list[Problem] = []
    progress, sealed_catalog = _catalog_problems(home, found)
    for sealed in manifest.sealed:
        found += _sealed_problems(folder, manifest, sealed)
    found += _active_problems(home, manifest, progress)
    if progress is not None and not sealed_catalog and not any(problem.path.suffix == ".journal" for problem in found):
        found += _disagreements(home, manifest, progress)
    if manifest.index is not None and (wrong := manifest.index.file.problem(folder, checksum=True)):
        found.append(Problem(folder / manifest.index.file.path, wrong, derived=True))
    return found


def _catalog_problems(home: Path, found: list[Problem]) -> tuple[State | None, bool]:
    """Check the catalog; return its state, and whether its checksum vouches for it."""
    path, sealed = home / CATALOG_NAME, False
    if not path.is_file():
        found.append(Problem(path, f"{path} is missing", derived=True))
        return None, False
    try:
        seal = read_seal(home)
        sealed = seal is not None and fits(home, seal)
        if seal is not None and not sealed and read_seal(home) == seal:  # no writer came between
            found.append(Problem(path, f"{path} is damaged: its content does not match its checksum", derived=True))
            return None, False
    except StoreError as error:
        found.append(Problem(home / CHECK_NAME, str(error), derived=True))
    try:
        with contextlib.closing(Catalog.open(path)) as catalog:
            wrong = [] if sealed else catalog.problems()
            if wrong:
                raise CatalogError("; ".join(wrong))
            return catalog.state(), sealed
    except CatalogError as error:
        found.append(Problem(path, f"{path} is damaged: {error}", derived=True))
        return None, False


def _sealed_problems(folder: Path, manifest: Manifest, sealed: SealedSegment) -> Iterator[Problem]:
    path = folder / sealed.journal.path
    if wrong := sealed.journal.problem(folder, checksum=True):
        yield Problem(path, wrong, derived=False)
    if wrong := sealed.vectors.problem(folder, checksum=True):
        damaged: list[Block] = []
        with contextlib.suppress(StoreError, FileNotFoundError):  # the journal's own problem says so
            blocks = filter(None, map(block_of, journal.read(path, journal.first_number(path))))
            damaged = damaged_blocks(folder / sealed.vectors.path, blocks, sealed.first, manifest.row_bytes)
        yield Problem(folder / sealed.vectors.path, wrong + _told(damaged), derived=False, rows=_ranges(damaged))


def _active_problems(home: Path, manifest: Manifest, progress: State | None) -> Iterator[Problem]:
    path, vectors = journal_path(home, manifest.active), vectors_path(home, manifest.active)
    for missing in (path, vectors):
        if not missing.is_file():
            yield Problem(missing, f"{missing} is missing", derived=False)
            return
    size = path.stat().st_size  # taken first: a writer only makes it longer
    try:
        number = journal.first_number(path)
    except StoreError as error:
        yield Problem(path, str(error), derived=False)
        return
    whole = [record for record in journal.read(path, number) if record.end <= size]
    end = whole[-1].end if whole else 0
    if progress is not None and progress.segment == manifest.active and end < progress.position:
        yield Problem(
            path, f"{path} is damaged at byte {end:,}: a write that was finished cannot be read", derived=False
        )
        return
    # Behind that, half a record is what a crash leaves of a write that never counted; whole ones are caught up with.
    if end < size and journal.resumes(path, end):
        yield Problem(path, f"{path} is damaged at byte {end:,}: further writes follow", derived=False)
        return
    blocks = list(filter(None, map(block_of, whole)))
    first, row_bytes = manifest.first_of(manifest.active), manifest.row_bytes
    rows = max((block.first + block.rows for block in blocks), default=first)
    damaged = damaged_blocks(vectors, blocks, first, row_bytes)
    if damaged or vectors.stat().st_size < (rows - first) * row_bytes:
        what = f"{vectors} is damaged: its content does not match its checksums" + _told(damaged)
        yield Problem(vectors, what, derived=False, rows=_ranges(damaged))


def too_short(path: Path, end: int) -> str | None:
    """Say what is wrong with a growing file that has fewer bytes than were written, or is gone."""
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    return f"{path} is damaged: it has {size:,} bytes, {end:,} were written" if size < end else None


def damaged_blocks(path: Path, blocks: Iterable[Block], first: int, row_bytes: int) -> list[Block]:
    """Return the blocks of a segment, which begins with row `first`, whose vectors are not those that were written."""
    found = []
    with open(path, "rb") as file:
        for block in blocks:
            file.seek((block.first - first) * row_bytes)
            if zlib.crc32(file.read(block.rows * row_bytes)) != block.crc32:
                found.append(block)
    return found


def _disagreements(home: Path, manifest: Manifest, progress: State) -> Iterator[Problem]:
    """Compare a catalog that no checksum vouches for with the journals, item by item."""
    path = home / CATALOG_NAME
    told = Contents.of(record for _, record in records(home, manifest) if record.number <= progress.number)
    try:
        with contextlib.closing(Catalog.open(path)) as opened:
            catalog, count = opened.at(progress.number), 0
            for row, item in catalog.numbered():
                count += 1
                if (there := told.items.get(row)) != item or there.content != item.content:
                    yield Problem(path, f"{path} is damaged: item {item.id!r} is not what was added", derived=True)
                    return
            if count != len(told.items):
                what = f"{path} is damaged: it has {count:,} items, {len(told.items):,} were added and not deleted"
                yield Problem(path, what, derived=True)
            elif set(catalog.deleted().tolist()) != told.removed:
                yield Problem(path, f"{path} is damaged: its deleted items are not those that were deleted", True)
            elif [block for block in catalog.blocks() if block.first < progress.rows] != told.blocks:
                yield Problem(path, f"{path} is damaged: its checksums of vectors are not those in the journals", True)
            elif missing := told.fields.difference(catalog.fields()):
                yield Problem(path, f"{path} is damaged: the field {min(missing)!r} of its items is missing", True)
    except (CatalogError, ValueError, TypeError) as error:
        yield Problem(path, f"{path} is damaged: {error}", derived=True)


def _ranges(damaged: Sequence[Block]) -> tuple[tuple[int, int], ...]:
    return tuple((block.first, block.first + block.rows) for block in damaged)


def _told(damaged: Sequence[Block]) -> str:
    shown = ", ".join(f"{start} to {end - 1}" for start, end in _ranges(damaged[:3]))
    more = f" and {len(damaged) - 3} more parts" if len(damaged) > 3 else ""
    return f" (rows {shown}{more})" if damaged else ""
