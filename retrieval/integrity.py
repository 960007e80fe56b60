"""Is every byte of a store as it was written? And what to do where it is not."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import journal
from .catalog import Catalog, Item, State
from .durable import replacing
from .errors import CatalogError, StoreError
from .manifest import MANIFEST_NAME, Manifest, SealedSegment, read_sealed_json, sha256
from .precision import stored_type
from .segments import journal_path, vectors_path
from .state import CATALOG_NAME, CHECK_NAME

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
    """Keep a damaged store from being opened. Raises OSError where nobody may write."""
    with replacing(folder / FLAG_NAME) as aside:
        names = [problem.path.relative_to(folder).as_posix() for problem in found]
        aside.write_text(json.dumps({"files": names}, indent=2) + "\n", encoding="utf-8")


def problems(folder: Path) -> list[Problem]:
    """Compare every byte of a store with its checksums, and its parts with one another.

    A store may be written to meanwhile; then its newest writes are left to the next time.
    """
    try:
        manifest = Manifest.read(folder)
    except StoreError as error:
        if not (folder / MANIFEST_NAME).is_file() or "is damaged" not in str(error):
            raise
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


def verify_store(folder: Path) -> list[Problem]:
    """Return what `problems` does, and keep a damaged store from being opened until it is repaired."""
    found = problems(folder)
    if found:
        with contextlib.suppress(PermissionError):
            flag(folder, found)
    else:
        (folder / FLAG_NAME).unlink(missing_ok=True)
    return found


def _catalog_problems(home: Path, found: list[Problem]) -> tuple[State | None, bool]:
    """Check the catalog; return its state, and whether its checksum vouches for it."""
    path, note, sealed = home / CATALOG_NAME, home / CHECK_NAME, False
    if not path.is_file():
        found.append(Problem(path, f"{path} is missing", derived=True))
        return None, False
    try:
        expected = read_sealed_json(note)
        sealed = expected == {"bytes": path.stat().st_size, "sha256": sha256(path)}
        if not sealed and read_sealed_json(note) == expected:  # no writer came between
            found.append(Problem(path, f"{path} is damaged: its content does not match its checksum", derived=True))
            return None, False
    except FileNotFoundError:
        pass  # someone is writing, or died while writing
    except (ValueError, KeyError, TypeError) as error:
        found.append(Problem(note, f"{note} is damaged ({error})", derived=True))
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
    if wrong := sealed.journal.problem(folder, checksum=True):
        yield Problem(folder / sealed.journal.path, wrong, derived=False)
    if wrong := sealed.vectors.problem(folder, checksum=True):
        records = list(journal.read(folder / sealed.journal.path, _first_number(folder / sealed.journal.path)))
        damaged = damaged_blocks(folder / sealed.vectors.path, records, sealed.first, _row_bytes(manifest))
        yield Problem(folder / sealed.vectors.path, wrong + _told(damaged), derived=False, rows=tuple(damaged))


def _active_problems(home: Path, manifest: Manifest, progress: State | None) -> Iterator[Problem]:
    path, vectors = journal_path(home, manifest.active), vectors_path(home, manifest.active)
    for missing in (path, vectors):
        if not missing.is_file():
            yield Problem(missing, f"{missing} is missing", derived=False)
            return
    size = path.stat().st_size  # taken first: a writer only makes it longer
    try:
        number = _first_number(path)
    except StoreError as error:
        yield Problem(path, str(error), derived=False)
        return
    records = [record for record in journal.read(path, number) if record.end <= size]
    end = records[-1].end if records else 0
    if progress is not None and progress.segment == manifest.active and end < progress.position:
        yield Problem(
            path, f"{path} is damaged at byte {end:,}: a write that was finished cannot be read", derived=False
        )
        return
    # Behind that, half a record is what a crash leaves of a write that never counted; whole ones are caught up with.
    if progress is not None and end < size and journal.resumes(path, end):
        yield Problem(path, f"{path} is damaged at byte {end:,}: further writes follow", derived=False)
        return
    first, row_bytes = manifest.first_of(manifest.active), _row_bytes(manifest)
    rows = max((record.body["first"] + record.body["rows"] for record in records if _is_add(record)), default=first)
    damaged = damaged_blocks(vectors, records, first, row_bytes)
    if damaged or vectors.stat().st_size < (rows - first) * row_bytes:
        what = f"{vectors} is damaged: its content does not match its checksums" + _told(damaged)
        yield Problem(vectors, what, derived=False, rows=tuple(damaged))


def damaged_blocks(path: Path, records: list[journal.Record], first: int, row_bytes: int) -> list[tuple[int, int]]:
    """Return the rows of a segment whose vectors are not those that were written, a block at a time."""
    found = []
    with open(path, "rb") as file:
        for record in filter(_is_add, records):
            start, rows = record.body["first"], record.body["rows"]
            file.seek((start - first) * row_bytes)
            if zlib.crc32(file.read(rows * row_bytes)) != record.body["crc32"]:
                found.append((start, start + rows))
    return found


def _disagreements(home: Path, manifest: Manifest, progress: State) -> Iterator[Problem]:
    """Compare a catalog that no checksum vouches for with the journals, item by item."""
    path = home / CATALOG_NAME
    items: dict[int, Item] = {}
    for record in all_records(home, manifest):
        if record.number > progress.number:
            break
        for row in record.body.get("removed", []):
            items.pop(row, None)
        for row, values in enumerate(record.body.get("items", []), record.body.get("first", 0)):
            items[row] = Item(*values)
    try:
        with contextlib.closing(Catalog.open(path)) as catalog:
            count = 0
            for row, item in catalog.at(progress.number).numbered():
                count += 1
                if items.get(row) != item:
                    yield Problem(path, f"{path} is damaged: item {item.id!r} is not what was added", derived=True)
                    return
            if count != len(items):
                what = f"{path} is damaged: it has {count:,} items, {len(items):,} were added and not deleted"
                yield Problem(path, what, derived=True)
    except (CatalogError, ValueError, TypeError) as error:
        yield Problem(path, f"{path} is damaged: {error}", derived=True)


def all_records(home: Path, manifest: Manifest) -> Iterator[journal.Record]:
    """Yield all writes, in order."""
    number = 1
    for segment in (*(sealed.number for sealed in manifest.sealed), manifest.active):
        for record in journal.read(journal_path(home, segment), number):
            yield record
            number = record.number + 1


def _first_number(path: Path) -> int:
    number = journal.first_number(path)
    if number is None:
        raise StoreError(f"{path} is damaged at its beginning")
    return number


def _row_bytes(manifest: Manifest) -> int:
    return manifest.dimension * stored_type(manifest.precision).itemsize


def _is_add(record: journal.Record) -> bool:
    return bool(record.body["kind"] == "add")


def _told(damaged: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{start} to {end - 1}" for start, end in damaged[:3])
    more = f" and {len(damaged) - 3} more parts" if len(damaged) > 3 else ""
    return f" (rows {shown}{more})" if damaged else ""
