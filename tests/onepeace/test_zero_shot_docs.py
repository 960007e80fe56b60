"""What docs/zero-shot.md shows works as it stands, and so do the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.gallery import GALLERY

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "zero-shot.md").read_text(encoding="utf-8")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand."""
    path = tmp_path_factory.mktemp("docs")
    for source, target in {
        "pictures/face-tabby-cat.webp": "photos/cat.webp",
        "pictures/cup-coffee-wooden.webp": "photos/cup.webp",
        "sounds/dog-barking-again.ogg": "sounds/dog.ogg",
    }.items():
        (path / target).parent.mkdir(exist_ok=True)
        shutil.copy(GALLERY / source, path / target)
    return path


def test_the_python_examples(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "cup.png").is_file()
    assert done.stdout.startswith("a cat 0.9")
    assert "\nother\n" in done.stdout


def test_the_commands(folder: Path) -> None:
    command = f'"{sys.executable}" -m retrieval '
    script = "set -e\n" + re.sub(r"^onepeace ", lambda _: command, "".join(blocks("sh")), flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "photos/cat.webp\ta cat\t" in done.stdout
    assert (folder / "labels.csv").read_text(encoding="utf-8").splitlines()[1].startswith("photos/cat.webp,other,")
    assert (folder / "why" / "cup.png").is_file()


@pytest.mark.parametrize("name", ["calibration", "metrics", "occlusion", "zero_shot"])
def test_the_examples_in_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(f"onepeace.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
