"""What a store says of itself: its model, its files and their checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import dacite

from .durable import replacing
from .errors import ManifestError, StoreError
from .precision import PRECISIONS, Precision, stored_type

FORMAT = 2
MANIFEST_NAME = "manifest.json"


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
    """The model that made the vectors.

    >>> tag = ModelTag.of(model)
    >>> tag.name, tag.dimension
    ('onepeace-tiny', 512)
    >>> tag.require(ModelTag("another", "00", 512), "my-store")
    Traceback (most recent call last):
    StoreError: my-store was built with onepeace-tiny (fingerprint ...
    """

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

    def require(self, model: ModelTag, place: str) -> None:
        """Raise StoreError unless `model` makes the same vectors. `place` says what was built with this one."""
        if (self.fingerprint, self.dimension) != (model.fingerprint, model.dimension):
            raise StoreError(
                f"{place} was built with {self.name} (fingerprint {self.fingerprint[:12]}, dimension "
                f"{self.dimension}), you gave {model.name} (fingerprint {model.fingerprint[:12]}, dimension "
                f"{model.dimension}): vectors of different models cannot be compared"
            )


@dataclass(frozen=True)
class FileRecord:
    """One file of a store, as it was when it was finished."""

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
        return cls(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path))

    def problem(self, folder: Path, *, checksum: bool) -> str | None:
        """Say what is wrong with the file: its size, or if asked its content."""
        path = folder / self.path
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != self.bytes:
            return f"{path} is damaged: it has {size:,} bytes, not {self.bytes:,}"
        if checksum and sha256(path) != self.sha256:
            return f"{path} is damaged: its content does not match its checksum"
        return None


@dataclass(frozen=True)
class SealedSegment:
    """A segment that has become full; its files never change again."""

    number: int
    first: int  # number of its first row
    rows: int
    vectors: FileRecord
    journal: FileRecord


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """A structure for approximate search, and what it was measured to find."""

    file: FileRecord
    kind: str
    rows: int  # of the store from the first on, that it covers; later ones are compared one by one
    parameters: dict[str, float] = field(default_factory=dict)  # of searching
    recall: float  # share of the true 10 nearest that it finds
    bytes: int  # in memory


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store consists of. Other files in its folder are leftovers.

    >>> report = build_store(["dog.jpg"], "my-store", model, precision="float16")
    >>> manifest = Manifest.read(Path("my-store"))
    >>> manifest.dimension, manifest.row_bytes, manifest.segments, manifest.first_of(1)
    (512, 1024, [1], 0)
    >>> manifest.home(Path("my-store")).name
    'generation-000001'
    >>> Path("elsewhere").mkdir()
    >>> manifest.changed(recall=0.9).write(Path("elsewhere"))
    >>> Manifest.read(Path("elsewhere")).recall
    0.9
    """

    format: int = FORMAT
    generation: int  # counts how often everything was written anew
    model: ModelTag
    precision: Precision = "float32"
    sealed: tuple[SealedSegment, ...] = ()
    active: int = 1  # the number of the segment that grows
    index: IndexRecord | None = None
    index_kind: str = "auto"  # what is wanted
    recall: float = 0.98  # of approximate search, that is wanted
    created: str  # UTC, ISO 8601
    updated: str

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    @property
    def dimension(self) -> int:
        """The width of a vector."""
        return self.model.dimension

    @property
    def row_bytes(self) -> int:
        """How long a vector is in its file."""
        return self.dimension * stored_type(self.precision).itemsize

    @property
    def segments(self) -> list[int]:
        """The numbers of all segments, in order; the last one grows."""
        return [*(sealed.number for sealed in self.sealed), self.active]

    def home(self, folder: Path) -> Path:
        """Return where the files lie."""
        return folder / f"generation-{self.generation:06d}"

    def first_of(self, segment: int) -> int:
        """Return the number of a segment's first row; the active one comes behind the sealed ones."""
        for sealed in self.sealed:
            if sealed.number == segment:
                return sealed.first
        return self.sealed[-1].first + self.sealed[-1].rows if self.sealed else 0

    def changed(self, **changes: Any) -> Manifest:
        """Return another manifest."""
        return replace(self, **changes)

    def write(self, folder: Path) -> None:
        """Make this the state of the store in `folder`, in one step."""
        with replacing(folder / MANIFEST_NAME) as aside:
            aside.write_bytes(sealed_json(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a store.

        Raises ManifestError where it is damaged or lost, StoreError where no store is, or an older or newer one.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            if any(folder.glob("generation-*/segment-*.journal")):
                raise ManifestError(f"{path} is missing: `onepeace index repair {folder}` writes it again")
            raise StoreError(
                f"{folder} is not a store (it has no {MANIFEST_NAME}): make one with `onepeace index build`"
            )
        try:
            if (older := read_older(path)) is not None:
                raise StoreError(
                    f"{folder} has the older store format {older['format']}: "
                    f"bring it to format {FORMAT} with `onepeace index migrate {folder}`"
                )
            content = read_sealed_json(path)
            if content["format"] > FORMAT:
                raise StoreError(f"{folder} has store format {content['format']}, this version reads {FORMAT}: upgrade")
            return dacite.from_dict(cls, content, dacite.Config(strict=True, cast=[tuple]))
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, dacite.DaciteError) as error:
            raise ManifestError(
                f"{path} is damaged ({error}): `onepeace index repair {folder}` writes it again"
            ) from error


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON with its own checksum; every byte counts, white space too."""
    return (json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n").encode()


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Read what `sealed_json` made. Raises ValueError where a byte is another."""
    written = path.read_bytes()
    content: dict[str, Any] = json.loads(written)
    content.pop("checksum", None)
    if sealed_json(content) != written:
        raise ValueError("its checksum does not match")
    return content


def read_older(path: Path) -> dict[str, Any] | None:
    """Return what a manifest of format 1 says, whose checksum leaves out white space; None for a later format.

    Raises ValueError, KeyError or TypeError where it is damaged.
    """
    content: dict[str, Any] = json.loads(path.read_bytes())
    if content["format"] >= FORMAT:
        return None
    if content.pop("checksum") != _checksum(content):
        raise ValueError("its checksum does not match")
    return content


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
