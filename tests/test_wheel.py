"""What is handed out: the wheel and the source distribution, what is in them, and that they work on their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from packaging.licenses import canonicalize_license_expression

import onepeace
from retrieval.gallery import read_gallery

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("encoders", "onepeace", "retrieval")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution; the wheel is built from the latter, as installers build it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def tracked(*folders: str) -> set[str]:
    """Return the files of the working tree that belong to the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git repository: what belongs to the project is not known")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == tracked(*PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    assert licences == {
        "LICENSE",
        "THIRD_PARTY_NOTICES.md",
        "retrieval/gallery/LICENCES.md",
        "retrieval/gallery/GPL-2.txt",
    }


def test_the_source_distribution_holds_what_builds_the_wheel_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert tracked(*PACKAGES, "configs") <= names
    assert {"pyproject.toml", "constraints.txt", "README.md", "CITATION.cff"} <= names
    assert not [name for name in names if name.startswith(("tests", "runs", "benchmarks", ".venv", "dist"))]


def test_tools_that_look_for_mistakes_in_distributions_find_none(built: tuple[Path, Path]) -> None:
    for command in (["twine", "check", "--strict", *map(str, built)], ["check-wheel-contents", str(built[0])]):
        done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_metadata_say_what_a_user_looks_for(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_string(wheel.read(name).decode())
    assert told["Version"] == onepeace.__version__
    assert canonicalize_license_expression(told["License-Expression"]) == told["License-Expression"]
    classifiers = told.get_all("Classifier")
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert "Typing :: Typed" in classifiers
    assert not told.get_all("Project-URL")  # there is no public place yet


def test_every_licence_of_the_gallery_is_in_the_expression_and_the_notices() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    spdx = {"CC0 1.0": "CC0-1.0", "CC BY-SA 4.0": "CC-BY-SA-4.0", "GPL-2.0-or-later": "GPL-2.0-or-later"}
    items = read_gallery()
    for item in items:
        licence = "CC-BY-3.0" if "ESC-10 set CC BY 3.0" in item.licence else spdx.get(item.licence)
        assert licence is None if item.licence == "Public domain" else licence in project["license"]
    counts = [sum(item.modality == modality for item in items) for modality in ("image", "audio")]
    assert re.search(rf"holds {counts[0]} pictures and {counts[1]} sounds", notices)
    for name in ("EfficientAT mn04", "EfficientNet-Lite0", "all-MiniLM-L6-v2", "Flickr8k", "ImageNet", "Caltech-101"):
        assert name in notices


def test_the_citation_is_valid_and_of_this_release() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == onepeace.__version__


def test_every_pin_of_the_tools_that_build_is_kept() -> None:
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {"build", "hatchling", "twine", "check-wheel-contents", "packaging"} <= pins


@pytest.mark.slow
def test_the_wheel_alone_is_enough_to_check_embed_search_and_demonstrate(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    """A clean environment with the base installation only; uv links its cache, so that this takes seconds."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    python, command = home / "bin/python", home / "bin/onepeace"
    notebook = ROOT / "notebooks" / "quickstart.ipynb"
    also = ["nbclient", "ipykernel"] if notebook.exists() else []
    uv = [BIN / "uv", "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*uv, built[0], *also], check=True)
    # Nothing of ours may come from the working tree, nor anything from the network.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [*map(str, arguments)], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    checked = json.loads(run(command, "check", "--json"))
    results = {f"{row['group']}/{row['check']}": row for row in checked["checks"]}
    assert checked["ok"]
    assert str(home) in results["versions/onepeace"]["detail"]
    for extra in ("m4a", "service", "scale", "client"):
        if f"extras/{extra}" in results:
            assert results[f"extras/{extra}"]["result"] in ("not installed", "ok")
    assert results["extras/service"]["result"] == "not installed"
    assert run(python, "-m", "onepeace", "--version") == f"onepeace {onepeace.__version__}\n"
    (tmp_path / "words.txt").write_text("a dog barking\nsailing boats\nan apple pie\n")
    run(command, "index", "build", "words.txt", "--store", "store")
    hits = json.loads(run(command, "search", "store", "--text", "a ship at sea", "--top", "1", "--json"))
    assert hits[0]["metadata"]["text"] == "sailing boats"
    run(command, "demo", "--out", "demo")
    assert (tmp_path / "demo" / "index.html").stat().st_size > 10_000
    if also:
        code = (
            "import nbformat, sys; from nbclient import NotebookClient;"
            "NotebookClient(nbformat.read(sys.argv[1], 4), timeout=600).execute()"
        )
        run(python, "-c", code, notebook)
