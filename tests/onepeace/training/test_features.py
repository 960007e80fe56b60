from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onepeace.training.features import FEATURES, INDEX, FeatureError, build_features, open_features


def read(item: int) -> Tensor:
    if item == 3:
        raise ValueError("it is damaged")
    return torch.full((2, 4), float(item))


def encode(items: list[Tensor]) -> list[Tensor]:
    """Return maps whose first axis grows with the item: 1, 2, 3, 1, ..."""
    return [item[0, 0] + torch.arange(3 * 5).view(3, 5)[: int(item[0, 0]) % 3 + 1] for item in items]


def test_features_come_back_as_they_were_computed_and_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(items: list[Tensor]) -> list[Tensor]:
        calls.append(len(items))
        return encode(items)

    first = build_features(tmp_path / "f", 7, read, counted, batch_size=3)
    again = build_features(tmp_path / "f", 7, read, counted, batch_size=3)
    assert sum(calls) == 6
    assert first.readable.tolist() == again.readable.tolist() == [True, True, True, False, True, True, True]
    for item in (0, 1, 2, 4, 5, 6):
        (expected,) = encode([read(item)])
        torch.testing.assert_close(again[item].float(), expected)
        torch.testing.assert_close(torch.from_numpy(again.pooled[item]).float(), expected.mean(0))


def test_a_build_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen: list[int] = []

    def stopping(item: int) -> Tensor:
        if item == 6 and len(seen) < 7:
            raise KeyboardInterrupt
        seen.append(item)
        return torch.full((2, 4), float(item))

    with pytest.raises(KeyboardInterrupt):
        build_features(tmp_path / "f", 9, stopping, encode, batch_size=2, threads=1)
    stopped_at = len(seen)
    with open(tmp_path / "f" / FEATURES, "ab") as stream:
        stream.write(b"half a block")  # what a kill in the middle of a write leaves
    seen.extend([-1] * 7)
    features = build_features(tmp_path / "f", 9, stopping, encode, batch_size=2, threads=1)
    assert 0 not in seen[stopped_at:]  # the first blocks were not read again
    for item in range(9):
        torch.testing.assert_close(features[item].float(), encode([torch.full((2, 4), float(item))])[0])


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    build_features(tmp_path / "f", 3, read, encode)
    data = bytearray((tmp_path / "f" / FEATURES).read_bytes())
    data[5] ^= 0xFF
    (tmp_path / "f" / FEATURES).write_bytes(data)
    with pytest.raises(FeatureError, match=FEATURES):
        open_features(tmp_path / "f")


def test_an_incomplete_cache_is_not_opened(tmp_path: Path) -> None:
    build_features(tmp_path / "f", 3, read, encode)
    (tmp_path / "f" / INDEX).unlink()
    with pytest.raises(FeatureError, match="delete it"):
        open_features(tmp_path / "f")


def test_a_first_block_that_cannot_be_read_harms_nothing(tmp_path: Path) -> None:
    def late(item: int) -> Tensor:
        if item < 4:
            raise ValueError("no")
        return torch.full((2, 4), float(item))

    features = build_features(tmp_path / "f", 6, late, encode, batch_size=2)
    assert features.readable.tolist() == [False] * 4 + [True] * 2
    torch.testing.assert_close(torch.from_numpy(features.pooled[5]).float(), encode([late(5)])[0].mean(0))


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    def unreadable(item: int) -> Tensor:
        raise ValueError("no")

    with pytest.raises(FeatureError, match="none of the 2 items"):
        build_features(tmp_path / "f", 2, unreadable, encode)


KILLED = """
import sys, time, torch
from pathlib import Path
from onepeace.training.features import build_features
def read(item):
    time.sleep(0.02)
    return torch.full((2, 3), float(item))
build_features(Path(sys.argv[1]), 200, read, lambda items: items, batch_size=4)
"""


def test_a_killed_build_is_finished_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stderr=subprocess.DEVNULL) as process:
        while not (folder / FEATURES).exists() or (folder / FEATURES).stat().st_size < 400:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    read_again: list[int] = []

    def counted(item: int) -> Tensor:
        read_again.append(item)
        return torch.full((2, 3), float(item))

    features = build_features(folder, 200, counted, lambda items: items, batch_size=4)
    assert 0 < len(read_again) < 200
    assert [float(features[item][0, 0]) for item in range(200)] == list(range(200))
