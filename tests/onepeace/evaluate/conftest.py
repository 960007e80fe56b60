"""One random model: what is measured does not depend on a model's design."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export folder of a tiny random model."""
    from random_models import write_random_model

    return write_random_model(tmp_path_factory.mktemp("model") / "backbones", "backbones")
