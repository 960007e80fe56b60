"""A cache of what a teacher makes of texts: one file a teacher, to which texts that it lacks are added."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from encoders.teachers import Teacher

log = logging.getLogger(__name__)

PART = 16_384  # texts between two writes of the cache


def cached_text_features(teacher: Teacher, key: str, texts: Sequence[str], folder: Path) -> Tensor:
    """Return (N, F) float16 features, from the cache in `folder` or computed and stored there part by part.

    `key` stands for the teacher's weights. Texts that the cache holds are not computed again; a damaged file is
    computed anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"texts-{key}.safetensors"
    wanted = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    with open(folder / "texts.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run that wants them waits instead of computing them too
        keys, features_NF = _read(path, teacher.width)
        rows = {known: row for row, known in enumerate(keys)}
        missing = {known: text for known, text in zip(wanted, texts, strict=True) if known not in rows}
        for start in range(0, len(missing), PART):
            part = dict(list(missing.items())[start : start + PART])
            title = f"text features {start:,} to {start + len(part):,} of {len(missing):,}"
            features_NF = torch.cat([features_NF, text_features(teacher, list(part.values()), title=title).half()])
            rows |= {known: len(rows) + i for i, known in enumerate(part)}
            _write(path, list(rows), features_NF)
    return features_NF[[rows[known] for known in wanted]]


@torch.inference_mode()
def text_features(teacher: Teacher, texts: Sequence[str], batch_size: int = 128, title: str | None = None) -> Tensor:
    """Return (N, F) features, float32, in the order of `texts`; with a title, a progress bar shows."""
    items = [teacher.prepare(text) for text in texts]
    order = sorted(range(len(items)), key=lambda i: len(items[i]))  # batches hold texts of similar length
    features_NF = torch.empty(len(items), teacher.width)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc=title, unit="batch", disable=title is None, mininterval=1.0):
        members = order[start : start + batch_size]
        with torch.autocast("cpu", torch.bfloat16):
            features_NF[members] = teacher([items[i] for i in members]).features
    return features_NF


def _read(path: Path, width: int) -> tuple[list[bytes], Tensor]:
    """Return the keys and features of a cache file; none where it is absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        if bytes(stored["sha256"].tolist()) == _checksum(stored["keys"], stored["features"]):
            return [bytes(key) for key in stored["keys"].numpy()], stored["features"]
        log.warning("%s is damaged; its features are computed anew", path)
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError) as error:
        log.warning("%s cannot be read (%s); its features are computed anew", path, error)
    return [], torch.empty(0, width, dtype=torch.float16)


def _write(path: Path, keys: Sequence[bytes], features_NF: Tensor) -> None:
    from safetensors.torch import save

    keys_N16 = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)
    checksum = torch.frombuffer(bytearray(_checksum(keys_N16, features_NF)), dtype=torch.uint8)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(save({"keys": keys_N16, "features": features_NF, "sha256": checksum}))
    os.replace(aside, path)


def _checksum(keys_N16: Tensor, features_NF: Tensor) -> bytes:
    digest = hashlib.sha256(keys_N16.contiguous().numpy().data)
    digest.update(features_NF.contiguous().numpy().data)
    return digest.digest()
