"""How a build goes about its work, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .found import Failure

MOST_FPS = 60  # frames a second; each becomes an item


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How files become items, and items vectors.

    Raises ValueError for sizes below 1, an empty name of a column, and a rate of frames that takes none, or more than a
    video has.

    >>> BuildConfig(batch_size=8, windows=True).items_at_once
    128
    """

    batch_size: int = 32  # items in one forward pass
    batches_at_once: int = 16  # handed to the model together, so that it can sort them by length; bounds memory
    text_column: str = "text"  # the column with texts in .csv, .tsv, .jsonl and .parquet files
    duplicates: bool = True  # keep files with the same content; they are embedded once, either way
    windows: bool = False  # a sound longer than the model's window becomes an item a window, with its start and end
    fps: float = 1.0  # frames of a video that become items, a second
    scenes: bool = False  # instead the middle frame of each scene

    @property
    def items_at_once(self) -> int:
        """How many items are read, embedded and written together."""
        return self.batch_size * self.batches_at_once

    def __post_init__(self) -> None:
        for name in ("batch_size", "batches_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"build.{name} must be at least 1, got {getattr(self, name)}")
        if not self.text_column:
            raise ValueError("build.text_column must name a column, got an empty string")
        if not 0 < self.fps <= MOST_FPS:
            raise ValueError(f"build.fps must be positive and at most {MOST_FPS}, got {self.fps}")


@dataclass
class BuildReport:
    """What became of the files.

    >>> report = build_store(["dog.jpg", "rain.ogg"], "my-store", model)
    >>> report.added, report.present, report.reused, report.duplicates, report.failed, report.ignored
    (2, 0, 0, [], [], [])
    >>> report.conflicts, report.changed, report.gone
    ([], [], [])
    """

    added: int = 0
    present: int = 0  # items that the store had already, by their id or by their file; left as they were
    reused: int = 0  # of those added, items whose content had been embedded already
    duplicates: list[str] = field(default_factory=list)  # uris left out, since their content is in the store
    failed: list[Failure] = field(default_factory=list)  # (uri, reason)
    ignored: list[str] = field(default_factory=list)  # files that are neither media nor text, and hidden media
    conflicts: list[Failure] = field(default_factory=list)  # uris left out: the store has another file under their id
    changed: list[str] = field(default_factory=list)  # of those present, uris that are no longer as they were embedded
    gone: list[str] = field(default_factory=list)  # ids in the store whose files are no longer on the disk
