"""What a store says of itself: its model, its files and their checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import dacite

from .durable import replacing
from .errors import StoreError

FORMAT = 1
MANIFEST_NAME = "manifest.json"
REMEDY = "restore it from a copy, or build the store again"


class NamedModel(Protocol):
    """What a store must know of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class ModelTag:
    """The model that made the vectors."""

    name: str
    fingerprint: str  # hex; equal fingerprints mean equal vectors
    dimension: int

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"model.dimension must be positive, got {self.dimension}")

    @classmethod
    def of(cls, model: NamedModel) -> ModelTag:
        """The tag of a loaded model."""
        return cls(model.name, model.fingerprint, model.dimension)


@dataclass(frozen=True)
class FileRecord:
    """One file of a store, as it was when it was written."""

    path: str  # from the store's folder
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"a store's files lie inside it, got {self.path!r}")

    @classmethod
    def of(cls, folder: Path, path: Path) -> FileRecord:
        """Describe a finished file."""
        return cls(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))

    def check(self, path: Path, *, checksum: bool) -> None:
        """Raise StoreError naming `path` unless its size, and if asked its content, is the recorded one."""
        if not path.is_file():
            raise StoreError(f"{path} is missing: {REMEDY}")
        size = path.stat().st_size
        if size != self.bytes:
            raise StoreError(f"{path} is damaged: it has {size} bytes, the manifest says {self.bytes}; {REMEDY}")
        if checksum and _sha256(path) != self.sha256:
            raise StoreError(f"{path} is damaged: its content does not match the manifest's checksum; {REMEDY}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One state of a store. A store is whatever its manifest says; other files in its folder are leftovers."""

    format: int = FORMAT
    generation: int  # counts the writes
    count: int  # items
    model: ModelTag
    vectors: FileRecord
    catalog: FileRecord
    index: FileRecord
    created: str  # UTC, ISO 8601
    updated: str

    @property
    def dimension(self) -> int:
        """The width of a vector."""
        return self.model.dimension

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of this state."""
        return self.vectors, self.catalog, self.index

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(record.bytes for record in self.files)

    def write(self, folder: Path) -> None:
        """Make this the state of the store in `folder`, in one step."""
        content = asdict(self)
        with replacing(folder / MANIFEST_NAME) as aside:
            aside.write_text(json.dumps(content | {"checksum": _checksum(content)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the state of a store. Raises StoreError where there is none, or a damaged or newer one."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise StoreError(
                f"{folder} is not a store (it has no {MANIFEST_NAME}): make one with `onepeace index build`"
            )
        try:
            content = json.loads(path.read_bytes())
            checksum = content.pop("checksum")
            if checksum != _checksum(content):
                raise ValueError("its checksum does not match")
            if content["format"] > FORMAT:
                raise StoreError(f"{folder} has store format {content['format']}, this version reads {FORMAT}: upgrade")
            return dacite.from_dict(cls, content, dacite.Config(strict=True))
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, dacite.DaciteError) as error:
            raise StoreError(f"{path} is damaged ({error}): {REMEDY}") from error


def _checksum(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
