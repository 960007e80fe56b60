"""What a scan finds besides items: what cannot be read, and what is none."""

from __future__ import annotations

import os
from typing import NamedTuple


class Failure(NamedTuple):
    """Something that could not be read, and why."""

    uri: str
    reason: str


class Ignored(NamedTuple):
    """A file that is left out: of a kind that is neither media nor text, or hidden."""

    uri: str


def printable(path: str | os.PathLike[str]) -> str:
    """A path to show: what is no valid character in a file's name is written out."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")
