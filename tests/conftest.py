"""What tests share: where the data pack and the reference figures lie, tiny random models, a seeded generator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import onepeace

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("any machine", settings(), deadline=None)  # a busy one is no failure
settings.load_profile("any machine")

# Files that take long begin first, so that in the end no process waits for one of them alone.
LONGEST = (
    *("test_docs.py", "test_ray_engine.py", "test_training.py", "test_page.py", "test_store_crashes.py"),
    *("test_staying_up.py", "test_notebooks.py", "test_more_notebooks.py", "test_classify_command.py"),
    *("test_docstrings.py", "test_check.py", "test_configs.py", "test_milvus.py", "test_integration_docs.py"),
    *("test_mteb.py", "test_site.py", "test_stages.py", "test_inference.py", "test_calibration.py"),
    *("test_sequence_training.py", "test_joint_tasks.py", "test_guard.py", "test_distillation.py", "test_memory.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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


@pytest.fixture(scope="session", params=["official", "backbones"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export folder of a tiny random model of each design."""
    from random_models import write_random_model

    return write_random_model(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> onepeace.Embedder:
    """That model, loaded, in the type that promises most."""
    import onepeace

    return onepeace.load(model_folder, dtype="float32")
