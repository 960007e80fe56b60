"""What docs/integrations.md and the docstrings show works as it stands, and without an extra the import names it."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.gallery import GALLERY

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
MODULES = {  # and the library that each needs
    "onepeace.integrations.datasets": "datasets",
    "onepeace.integrations.langchain": "langchain_core",
    "onepeace.integrations.llama_index": "llama_index",
    "onepeace.integrations.mteb": "mteb",
    "onepeace.integrations.sklearn": "sklearn",
    "retrieval.integrations.langchain": "langchain_core",
}


@pytest.mark.filterwarnings("ignore")  # of the libraries, which a reader would see too
@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("face-tabby-cat", "red-apple", "sheep-standing-grass", "head-lion-orange"):
        if (path := GALLERY / "pictures" / f"{name}.webp").exists():
            shutil.copy(path, tmp_path / "photos")
    shutil.copy(GALLERY / "pictures" / "face-tabby-cat.webp", tmp_path / "dog.jpg")
    shutil.copy(GALLERY / "sounds" / "rain-falling-steadily.ogg", tmp_path / "rain.ogg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    exec(compile(SECTIONS[section], f"docs/integrations.md: {section}", "exec"), {})
    assert capsys.readouterr().out.strip() not in ("", "[]")


def test_every_library_has_its_example() -> None:
    assert list(SECTIONS) == ["MTEB", "LangChain", "LlamaIndex", "Hugging Face datasets", "scikit-learn"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_without_their_libraries_the_errors_name_the_extras() -> None:
    code = (
        f"import importlib, sys\nfor name, library in {MODULES}.items():\n sys.modules[library] = None\n"
        " try: importlib.import_module(name)\n except ImportError as error: print(name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert told.keys() == MODULES.keys()
    extras = {"langchain_core": "langchain", "llama_index": "llama-index", "sklearn": "scikit-learn"}
    for name, library in MODULES.items():
        assert f"pip install 'onepeace[{extras.get(library, library)}]'" in told[name]


def test_none_is_imported_before_it_is_asked_for() -> None:
    libraries = sorted({*MODULES.values()})
    code = (
        "import sys, onepeace, onepeace.integrations, retrieval.integrations; onepeace.load; "
        f"print([name for name in {libraries} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
