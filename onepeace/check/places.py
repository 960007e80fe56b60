"""Where files are written: temporary ones, and what is kept between runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from onepeace.check.finding import Finding, Outcome

LEAST = 2**30  # bytes that should be free


def temporary() -> Finding:
    """Write into the temporary folder, and look how much is free."""
    with tempfile.TemporaryFile() as file:  # which raises where no folder can be written to
        file.write(b"onepeace")
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    told = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LEAST:
        return Finding(Outcome.SLOW, told, "free some space there, or set TMPDIR to another folder")
    return Finding(Outcome.OK, told)


def cache() -> Finding:
    """Look whether compiled kernels could be kept: only `compile=True` and GPUs make any."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(there, os.W_OK):
        return Finding(Outcome.OK, str(folder))
    told = f"{folder} cannot be written to: what is compiled is compiled again every time"
    return Finding(Outcome.SLOW, told, "set XDG_CACHE_HOME to a folder that can be written to")
