"""Files that survive a crash: written aside, flushed, renamed; and one writer at a time (POSIX)."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from .errors import BusyError, StoreError

LOCK_NAME = "writer.lock"


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write aside; on leaving without an error it replaces `path` in one step."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        flush(aside)
        os.replace(aside, path)
        flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a folder to fill; on leaving without an error it becomes `target`, which is absent or empty, in one step.

    What others left who died while they filled one is removed. Raises StoreError where `target` was made meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    aside = _aside(target, uuid4().hex)
    aside.mkdir()
    held = _held(aside)
    try:
        yield aside
        try:
            os.rename(aside, target)
        except OSError as error:
            raise StoreError(f"{target} was made by someone else meanwhile ({error.strerror})") from error
        flush(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(held)


def _aside(target: Path, owner: str) -> Path:
    return target.with_name(f".{target.name}.{owner}.building")


def _held(folder: Path) -> int:
    """Keep others from removing a folder until the descriptor is closed, or its owner dies. Raises OSError in use."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(_aside(target.with_name(glob.escape(target.name)), "*").name):
        with contextlib.suppress(OSError):  # in use, or gone by now
            held = _held(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


class WriterLock:
    """The right to write in a folder.

    The kernel drops it when its owner dies, so a crash leaves nothing to clear by hand; the file's content only tells
    others who is writing, and since when.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises BusyError naming who holds it, and OSError where nobody may write."""
        try:
            self._file = open(folder / LOCK_NAME, "a+", encoding="utf-8")  # noqa: SIM115 - closed by `release`
        except OSError as error:
            reason = f"it cannot be written to ({error.strerror})"
            raise type(error)(error.errno, reason, str(folder)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = _described(self._file.read())
            self._file.close()
            raise BusyError(f"{folder} is being written by {owner}: try again when it is done") from None
        self._file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk must not keep anyone from deleting
            self._file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now()}))
            self._file.flush()

    def release(self) -> None:
        """Give it up."""
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()


def _described(owner: str) -> str:
    """Say who holds a lock, and how long."""
    try:
        told = json.loads(owner)
        since = datetime.fromisoformat(told["since"])
        seconds = max(0, round((datetime.now(UTC) - since).total_seconds()))
        age = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
        return f"process {told['process']} on {told['host']} since {told['since']} ({age})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
