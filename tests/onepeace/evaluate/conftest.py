"""One random model: what is measured does not depend on a model's design."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onepeace


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export folder of a tiny random model."""
    from random_models import write_random_model

    return write_random_model(tmp_path_factory.mktemp("model") / "backbones", "backbones")


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> onepeace.Embedder:
    """That model, loaded; the fixture for all tests would keep it, and other files get it as theirs."""
    import onepeace

    return onepeace.load(model_folder, dtype="float32")
