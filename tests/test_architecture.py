"""The walls of the house: which package may import which, what an __init__ may hold, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoders", "onepeace", "retrieval")  # each may import those before it, never those after
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NO_MODEL = {"vectors", "index", "catalog", "store"}  # of retrieval: these know neither torch nor the model


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, anywhere in it."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_back(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    later = PACKAGES[PACKAGES.index(own) + 1 :]
    assert not [name for name in imported(path) if name.split(".")[0] in later]


@pytest.mark.parametrize("name", sorted(NO_MODEL))
def test_the_store_knows_neither_torch_nor_the_model(name: str) -> None:
    roots = {module.split(".")[0] for module in imported(ROOT / "retrieval" / f"{name}.py")}
    assert not roots & {"torch", "onepeace", "encoders"}


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_an_init_holds_imports_and_all_only(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = [ast.unparse(target) for target in getattr(node, "targets", [])]
        listed = names in (["__all__"], ["(__getattr__, __dir__, __all__)"])
        assert documented or listed or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "util", "common", "helpers", "misc"}]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import onepeace", ["torch", "faiss", "numpy"]),
        ("import retrieval.cli", ["torch", "faiss", "lightning"]),
        ("import onepeace.embedder", ["timm", "torchvision", "lightning", "librosa", "faiss"]),
        ("import encoders.media", ["torch", "librosa"]),
    ],
)
def test_what_is_heavy_is_imported_where_it_is_used(statement: str, heavy: list[str]) -> None:
    code = f"{statement}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
