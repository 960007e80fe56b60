"""What tests share: where the data pack and the reference figures lie, and a seeded generator."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _folder(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set {variable} to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def data_pack() -> Path:
    """The tri-modal data pack: manifests and tar shards."""
    return _folder("ONEPEACE_DATA", "data")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Reference figures of the official model."""
    return _folder("ONEPEACE_GOLDENS", "goldens")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20231121)
