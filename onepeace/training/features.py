"""A cache of what a frozen backbone makes of each item: computed once, memory-mapped in every epoch.

One folder holds one view of one list of items: `features.bin` (float16, one item after the other along the first axis),
`pooled.bin` (float16, an item's mean), `lengths.bin` (int64, the first axis of each item; 0: it could not be read) and,
once complete, `index.json` with shapes, counts and checksums. The folder's name ends in a key of everything the
features depend on. A build that was killed goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

log = logging.getLogger(__name__)

FEATURES, POOLED, LENGTHS, INDEX = "features.bin", "pooled.bin", "lengths.bin", "index.json"
SHAPE = "shape.json"  # of an item without its first axis; written with the first block
REPORTED = 10  # items that cannot be read and are named in the log


class FeatureError(ValueError):
    """A feature cache that is damaged; the message names the file and the way out."""


@dataclass(frozen=True)
class Features:
    """A complete cache, opened."""

    values: np.ndarray  # (sum of lengths, ...) float16, memory-mapped
    offsets: np.ndarray  # (items + 1,)
    pooled: np.ndarray  # (items, F) float16

    def __len__(self) -> int:
        """Return the number of items, unreadable ones included."""
        return len(self.offsets) - 1

    def __getitem__(self, item: int) -> Tensor:
        """Return one item's features, float16."""
        return torch.from_numpy(np.array(self.values[self.offsets[item] : self.offsets[item + 1]]))

    @property
    def readable(self) -> np.ndarray:
        """Return which items could be read, (items,) bool."""
        return np.diff(self.offsets) > 0


def cache_key(parts: Mapping[str, Any]) -> str:
    """Return 16 hex digits that stand for plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_key(module: torch.nn.Module, without: str | None = None) -> str:
    """Return 16 hex digits that stand for a module's weights and statistics, `without` those whose names begin so."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if without is not None and name.startswith(without):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def build_features(
    folder: Path,
    count: int,
    read: Callable[[int], Any],
    encode: Callable[[list[Any]], list[Tensor]],
    batch_size: int = 64,
    threads: int = 2,
    title: str = "features",
) -> Features:
    """Return the features of items 0 to `count`, from the cache in `folder` or computed now.

    `read` prepares one item in a thread, raising ValueError where it cannot be read; `encode` runs the backbone on a
    batch. Items that cannot be read are logged and keep their place with a length of 0.
    """
    with locked(folder):
        if not (folder / INDEX).exists():
            _compute(folder, count, read, encode, batch_size, threads, title)
    return open_features(folder)


def open_features(folder: Path, verify: bool = True) -> Features:
    """Return a complete cache; `verify` compares the checksums first.

    Raises:
        FeatureError: it is incomplete or damaged.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for name, checksum in index["sha256"].items() if verify else ():
            if _sha256(folder / name) != checksum:
                raise FeatureError(f"{folder / name} is damaged: delete {folder} and run again")
        lengths = np.fromfile(folder / LENGTHS, np.int64)
        shape, total = tuple(index["shape"]), int(lengths.sum())
        pooled = np.fromfile(folder / POOLED, np.float16).reshape(len(lengths), shape[-1])
        values = np.memmap(folder / FEATURES, np.float16, "r", shape=(total, *shape))
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, FeatureError):
            raise
        raise FeatureError(f"{folder} is no complete feature cache ({error}): delete it and run again") from error
    return Features(values, np.concatenate([[0], lengths.cumsum()]), pooled)


def _compute(
    folder: Path,
    count: int,
    read: Callable[[int], Any],
    encode: Callable[[list[Any]], list[Tensor]],
    batch_size: int,
    threads: int,
    title: str,
) -> None:
    done = _resume(folder)
    reasons: list[str] = []  # why items cannot be read
    with (
        open(folder / FEATURES, "ab") as features,
        open(folder / LENGTHS, "ab") as lengths,
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=count, initial=done, desc=title, unit="item", mininterval=1.0) as bar,
    ):
        upcoming = _submit(pool, read, done, min(done + batch_size, count))
        for start in range(done, count, batch_size):
            reads = upcoming
            upcoming = _submit(pool, read, start + batch_size, min(start + 2 * batch_size, count))
            items: list[Any] = []  # None: it cannot be read
            for item, future in enumerate(reads, start):
                try:
                    items.append(future.result())
                except (ValueError, OSError) as error:
                    items.append(None)
                    reasons.append(str(error))
                    if len(reasons) <= REPORTED:
                        log.warning("%s: item %d is left out: %s", title, item, error)
            readable = [item for item in items if item is not None]
            encoded = [feature_map.half().cpu() for feature_map in encode(readable)] if readable else []
            if encoded and not (folder / SHAPE).exists():
                (folder / SHAPE).write_text(json.dumps(list(encoded[0].shape[1:])))
            for feature_map in encoded:
                features.write(feature_map.numpy().tobytes())
            features.flush()
            os.fsync(features.fileno())
            sizes = iter(len(feature_map) for feature_map in encoded)
            lengths.write(np.array([0 if item is None else next(sizes) for item in items], np.int64).tobytes())
            lengths.flush()
            bar.update(len(items))
    _finish(folder, title, reasons)


def _finish(folder: Path, title: str, reasons: Sequence[str]) -> None:
    """Average each item, and write the index that makes the cache complete."""
    lengths = np.fromfile(folder / LENGTHS, np.int64)
    if not lengths.any():
        why = f"; the first: {reasons[0]}" if reasons else ""
        raise FeatureError(f"{title}: none of the {len(lengths)} items could be read{why}")
    if unreadable := int((lengths == 0).sum()):
        log.warning("%s: %d of %d items could not be read", title, unreadable, len(lengths))
    shape = tuple(json.loads((folder / SHAPE).read_text()))
    values = np.memmap(folder / FEATURES, np.float16, "r", shape=(int(lengths.sum()), *shape))
    pooled = np.zeros((len(lengths), shape[-1]), np.float16)
    for item, (end, length) in enumerate(zip(lengths.cumsum(), lengths, strict=True)):
        if length:
            pooled[item] = values[end - length : end].reshape(-1, shape[-1]).mean(axis=0, dtype=np.float32)
    pooled.tofile(folder / POOLED)
    checksums = {name: _sha256(folder / name) for name in (FEATURES, POOLED, LENGTHS)}
    aside = folder / (INDEX + ".part")
    aside.write_text(json.dumps({"shape": shape, "unreadable": unreadable, "sha256": checksums}, indent=1))
    os.replace(aside, folder / INDEX)


def _resume(folder: Path) -> int:
    """Cut the files back to the last complete block and return how many items they hold."""
    if not (folder / SHAPE).exists():
        for name in (FEATURES, LENGTHS):
            (folder / name).unlink(missing_ok=True)
        return 0
    shape = json.loads((folder / SHAPE).read_text())
    raw = (folder / LENGTHS).read_bytes() if (folder / LENGTHS).exists() else b""
    lengths = np.frombuffer(raw[: len(raw) // 8 * 8], np.int64)
    for name, size in ((FEATURES, 2 * int(lengths.sum()) * math.prod(shape)), (LENGTHS, 8 * len(lengths))):
        if (folder / name).exists():
            os.truncate(folder / name, size)
    return len(lengths)


def _submit(pool: ThreadPoolExecutor, read: Callable[[int], Any], start: int, stop: int) -> Sequence[Future[Any]]:
    return [pool.submit(read, item) for item in range(start, stop)]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that want the same results waiting, instead of computing them too."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
