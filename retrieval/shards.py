"""Media in tar shards: SHARD.tar/MEMBER names one; members of one name are a sample, as webdataset has it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from onepeace import media_kind
from onepeace.manifest import Shards

from .found import Failure

END = bytes(1024)  # of every archive
LARGEST_NOTE = 2**20  # bytes of a text or JSON member


class Member(NamedTuple):
    """One medium or text of a shard."""

    name: str
    kind: str  # "image", "audio", "text", or "" for what is none of them
    text: str  # of a text
    metadata: dict[str, Any]


class ShardMember:
    """A binary file that is read when it is decoded."""

    def __init__(self, uri: str) -> None:
        self.name = uri

    def read(self, size: int = -1) -> bytes:
        """Return the first `size` bytes, or all. Raises OSError where they are not there any more."""
        shard, _, member = self.name.rpartition(".tar/")
        path = Path(shard + ".tar")
        try:
            content = _shards(path, path.stat().st_mtime_ns).read(f"{path.name}/{member}")
        except ValueError as error:
            raise OSError(str(error)) from error
        return content if size < 0 else content[:size]


@lru_cache(maxsize=8)  # lists of members, which may be long; shards are asked for in order
def _shards(path: Path, _written: int) -> Shards:
    return Shards(path.parent)  # one for each file, as it would not notice that one was written anew


def members(path: Path) -> Iterator[Member | Failure]:
    """Yield the media and texts of a shard. A sample's `.json` becomes the metadata of its others, `.cls` their label.

    A note that cannot be read is a failure of its own; the others of its sample do without it.

    Raises:
        OSError, ValueError: the shard is damaged.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            files = (member for member in archive if member.isfile())
            for _, sample in groupby(files, key=lambda member: _sample(member.name)):
                yield from _of_sample(archive, list(sample))
            end = archive.offset
    except tarfile.TarError as error:
        raise ValueError(f"not a whole tar archive: {error}") from error
    with open(path, "rb") as file:  # what follows `tarfile` does not look at
        file.seek(max(0, path.stat().st_size - len(END)))
        if file.read() != END:
            raise ValueError("it was cut: the end of the archive is missing")
        file.seek(end)
        while part := file.read(2**20):
            if part.strip(b"\0"):
                raise ValueError(f"it is damaged behind byte {end:,}: what follows cannot be read")


def _of_sample(archive: tarfile.TarFile, sample: list[tarfile.TarInfo]) -> Iterator[Member | Failure]:
    metadata: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for member in sample:
        if not member.name.endswith((".json", ".cls", ".txt")):
            continue
        try:
            note = _note(archive, member)
            if member.name.endswith(".json"):
                told = json.loads(note)
                metadata |= told if isinstance(told, dict) else {}
            elif member.name.endswith(".cls"):
                metadata["label"] = note.strip()
            else:
                texts[member.name] = note.strip()
        except ValueError as error:
            yield Failure(member.name, str(error))
    for member in sample:
        if member.name.endswith(".txt"):
            if member.name in texts:
                yield Member(member.name, "text", texts[member.name], metadata)
        elif not member.name.endswith((".json", ".cls")):
            kind = media_kind(member.name) if Path(member.name).suffix else None
            yield Member(member.name, kind if kind in ("image", "audio") else "", "", metadata)


def _note(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > LARGEST_NOTE:
        raise ValueError(f"{member.name} has {member.size:,} bytes, a note has at most {LARGEST_NOTE:,}")
    file = archive.extractfile(member)
    return "" if file is None else file.read().decode("utf-8")


def _sample(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"
