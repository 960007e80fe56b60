"""Every public name says what it is and shows how it is used, and what is shown works."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import reader_folder

import onepeace

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoders", "onepeace", "retrieval")
# Modules without a stub, all of whose names are for users.
MODULES = (
    "onepeace.checkpoint",
    "onepeace.convert",
    "onepeace.evaluate",
    "onepeace.training.export",
    "onepeace.training.losses",
    "onepeace.training.masking",
    "onepeace.training.optim",
    "onepeace.training.stages",
    "onepeace.training.start",
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def names_of(module: str) -> Iterator[tuple[str, Any]]:
    home = importlib.import_module(module)
    names = getattr(home, "__all__", None) or [
        name
        for name, value in vars(home).items()
        if not name.startswith("_")
        and isinstance(value, FunctionType | type)
        and getattr(value, "__module__", "") == module
    ]
    for name in names:
        if isinstance(value := getattr(home, name), FunctionType | type):
            yield f"{module}.{name}", value


PUBLIC = dict(pair for module in (*PACKAGES, *MODULES) for pair in names_of(module))


def methods_of(value: type) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties that a class itself defines, with their docstrings."""
    for name, member in vars(value).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if isinstance(member, property):
            member = member.fget
        if isinstance(member, FunctionType) and not name.startswith("_"):
            yield name, member.__doc__ or ""


def examples(text: str | None) -> str:
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text or ""))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_and_an_example(name: str) -> None:
    value = PUBLIC[name]
    told = value.__doc__ or ""
    assert len(told.split()) >= 3, f"{name} has no docstring"
    assert not told.startswith(f"{value.__name__}("), f"{name} has the docstring that a dataclass makes up"
    shown = examples(told)
    if isinstance(value, type):
        shown += "".join(examples(text) for _, text in methods_of(value))
    assert shown, f"{name} has no example"


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if isinstance(value, type)])
def test_every_public_method_has_a_docstring_and_is_used_in_an_example(name: str) -> None:
    value = PUBLIC[name]
    inherited = {method for base in value.__mro__[1:] for method, _ in methods_of(base)}
    shown = examples(value.__doc__) + "".join(examples(text) for _, text in methods_of(value))
    for method, told in methods_of(value):
        assert told, f"{name}.{method} has no docstring"
        if method not in inherited and method != "forward":  # a module's is called through the module itself
            used = rf"\.{method}\b" if method != "close" else r"\.close\b|^with "
            assert re.search(used, shown, re.MULTILINE), f"{name}.{method} is in no example"


def modules_with_examples() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^\s+>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class Checker(doctest.OutputChecker):
    """Takes an error by its own name, whichever module it is from."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        plain = re.sub(r"^(?:\w+\.)+(\w+(?::|$))", r"\1", got)
        return any(super(Checker, self).check_output(want, told, optionflags) for told in (got, plain))


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load("onepeace-tiny", dtype="float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_folder.small(tmp_path_factory.mktemp("reader"))


def known(module: ModuleType, model: onepeace.Embedder) -> dict[str, Any]:
    """What the pages of reference say is there before their examples."""
    package = importlib.import_module(module.__name__.partition(".")[0])
    public = {name: getattr(package, name) for name in package.__all__}
    return public | vars(module) | {"onepeace": onepeace, "np": np, "Path": Path, "model": model}


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_in_docstrings_work(
    name: str, model: onepeace.Embedder, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(name)
    told: list[str] = []
    for number, test in enumerate(doctest.DocTestFinder().find(module, extraglobs=known(module, model))):
        if not test.examples or not _is_own(module, test):
            continue
        folder = tmp_path / str(number)
        shutil.copytree(files, folder)
        monkeypatch.chdir(folder)
        doctest.DocTestRunner(Checker(), optionflags=FLAGS).run(test, out=told.append)
    assert not told, "".join(told)



def _is_own(module: ModuleType, test: doctest.DocTest) -> bool:
    """Tell a docstring of a module from one that a dataclass or an enum inherits."""
    return test.filename is not None and inspect.getsourcefile(module) == test.filename
