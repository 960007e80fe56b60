"""Fixtures that read the reference figures of the official model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from parity_figures import Figures, build, read_figures

from onepeace.model import OnePeace


@pytest.fixture
def figures(goldens: Path) -> Callable[[str], Figures]:
    """Read a figures file by its path below the goldens, without suffix."""
    return lambda name: read_figures(goldens / f"{name}.safetensors")


@pytest.fixture
def official(goldens: Path) -> Callable[..., OnePeace]:
    """Build our model from one of the tiny official checkpoints by name."""
    return lambda name, **changes: build(goldens / "tinyA" / f"{name}.pt.xz", **changes)
