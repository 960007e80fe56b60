"""What the README and the pages of docs/ show works as it stands.

A page's blocks of Python and of shell commands run in their order, in one folder and, for Python, one namespace: as a
reader would go through it. `onepeace ...` runs in this process, where the model's libraries are loaded already.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import reader_folder
import typer
from typer.testing import CliRunner

from retrieval.cli import app

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of libraries: a reader would not mind

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}
# What begins so cannot run here, and why.
CANNOT = {
    "pip install": "nothing is installed by a test; the extras' names are compared with pyproject.toml",
    "source .venv": "the tests' own environment is active",
    "docker ": "needs Docker's daemon; test_deployment.py reads the files",
    "make ": "sets up an environment of its own; the targets' names are compared with the Makefile",
    "onepeace train plan configs/plans/tiny.yaml": "hours; test_configs.py reads every stage",
    "onepeace train plan mine.yaml": "half an hour, and EfficientAT's weights; test_configs.py reads own.yaml",
    "onepeace matryoshka my-model manifest-train.parquet": "needs rows of every modality; test_matryoshka.py has some",
    "onepeace querybank my-model queries.txt": "test_query_bank.py runs it",
    "onepeace export runs/": "a checkpoint of such a training",
    "onepeace train fit --config configs/finetune": "minutes on the data pack; test_task_training.py trains heads",
    "onepeace scenes scenes --rows 24000": "minutes; the page draws fewer, too",
    "python benchmarks/scenes.py": "what the training before would give",
    "onepeace convert vggsound.pt": "a fine-tuned checkpoint; tests/parity converts small ones, there and back",
    "onepeace convert one-peace-vggsound": "what that would give",
    "onepeace index build /mnt/photos": "a cluster",
    "ONEPEACE_MILVUS_TOKEN=": "a Milvus server",
    "from retrieval import RayEngine": "a cluster; test_ray_engine.py runs one of this machine",
}
SLOW = {  # runs with the slow tests only
    "onepeace check": "a minute; test_check.py runs it",
    "onepeace bench": "half a minute for every way to encode",
    "onepeace index build photos --store my-store --engine ray": "Ray takes 15 s to start",
}
LONG = "docs/heads/"  # pages that train: with the slow tests only
ELSEWHERE = {"docs/integrations.md"}  # tests/integrations runs its blocks, each library's in a folder of its own
CURL = "curl -sS --fail-with-body "
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"[|<>*$;&`]")  # such a line needs one


@dataclass
class Page:
    """A page as a reader goes through it."""

    name: str
    folder: Path
    slow: bool
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    address: str = ""
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self) -> None:
        for kind, text in blocks(self.name):
            if kind == "python" and not begins(text, CANNOT):
                code = compile(self.addressed(text), self.name, "exec")
                exec(code, self.names)
            elif kind == "sh":
                for command in commands(text):
                    if not begins(command, CANNOT) and (self.slow or not begins(command, SLOW)):
                        self.command(command)

    def command(self, text: str) -> None:
        if text.startswith("onepeace serve "):
            self.serve(text)
        elif text.startswith("onepeace train "):  # fixes seeds and handlers of the whole process
            self.shell(text)
        elif text.startswith("onepeace ") and not SHELL.search(re.sub(r'"[^"]*"|\'[^\']*\'|\s#.*', "", text)):
            done = CliRunner().invoke(app, shlex.split(text, comments=True)[1:])
            assert done.exit_code == 0, f"{text}\n{done.output}"
        else:
            self.shell(text)

    def shell(self, text: str) -> None:
        script = "set -e -o pipefail\n" + re.sub(r"^curl ", CURL, self.addressed(text), flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"

    def serve(self, text: str) -> None:
        """Start a service as a reader would in another terminal; later addresses of the page lead to it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = shlex.split(text, comments=True)[2:]
        command = [sys.executable, "-m", "retrieval", "serve", *options, "--port", str(port)]
        self.services.append(subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL))
        with httpx.Client() as client:  # one for all: each takes as long to make as many requests
            for _ in range(1200):
                try:
                    if client.get(f"http://127.0.0.1:{port}/health/ready").is_success:
                        break
                except httpx.TransportError:
                    pass
                assert self.services[-1].poll() is None, text
                time.sleep(0.1)
        if "--keys" not in options:  # the page goes on with the first
            self.address = f"127.0.0.1:{port}"

    def addressed(self, text: str) -> str:
        return re.sub(r"(localhost|127\.0\.0\.1):8000", self.address, text) if self.address else text


def blocks(page: str) -> list[tuple[str, str]]:
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


def commands(text: str) -> list[str]:
    """Whole commands: a line, with those that it goes on to."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def begins(text: str, known: dict[str, str]) -> bool:
    return any(text.startswith(start) for start in known)


def all_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for kind, block in FENCE.findall(text):
            if kind == "sh":
                yield from ((page, command) for command in commands(block))
        for inline in re.findall(r"`(onepeace [^`]+)`", FENCE.sub("", text)):
            yield page, " ".join(inline.split())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_folder.whole(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "reader"
    shutil.copytree(files, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def runs(page: str, slow: bool) -> bool:
    if page.startswith(LONG):
        return slow
    return any(
        kind == "python" or any(begins(c, SLOW) if slow else not begins(c, CANNOT | SLOW) for c in commands(text))
        for kind, text in blocks(page)
        if kind in ("python", "sh")
    ) and (not slow or any(begins(c, SLOW) for kind, text in blocks(page) if kind == "sh" for c in commands(text)))


def go_through(page: str, folder: Path, slow: bool) -> None:
    reader = Page(page, folder, slow)
    try:
        reader.run()
    finally:
        for service in reader.services:
            service.terminate()
        for service in reader.services:
            service.wait(60)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE and runs(page, slow=False)])
def test_a_page_works_as_it_is_written(page: str, folder: Path) -> None:
    go_through(page, folder, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, slow=True)])
def test_a_page_works_with_what_takes_long(page: str, folder: Path) -> None:
    go_through(page, folder, slow=True)


@pytest.mark.parametrize(("page", "command"), list(all_commands()))
def test_every_option_and_name_of_a_command_exists(page: str, command: str) -> None:
    if command.startswith("onepeace "):
        parse(shlex.split(command.partition(" | ")[0], comments=True)[1:])
    elif command.startswith("pip install"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"'\.\[([\w,-]+)\]'", command)
        assert asked or "[" not in command
        assert {name for names in asked for name in names.split(",")} <= extras.keys()
    elif command.startswith("make "):
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in re.findall(r"\bbenchmarks/\w+\.py|\bconfigs/[\w/-]+\.\w+", command):
        assert (ROOT / path).is_file()


def parse(arguments: list[str]) -> None:
    """Take a command line apart as `onepeace` would, without running it. Words in capitals stand for something."""
    command: Any = typer.main.get_command(app)
    name = "onepeace"
    while hasattr(command, "commands"):
        if not arguments or arguments[0].isupper() or arguments[0].startswith("--"):
            return
        name, *arguments = arguments
        for child in name.split("/"):  # `index build/add`
            assert child in command.commands, f"there is no command {name}"
        command = command.commands[name.split("/")[0]]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    if command.context_settings.get("ignore_unknown_options"):
        return
    asked = {part.partition("=")[0] for part in arguments if re.match(r"--[a-z]", part)}
    assert asked <= known | {"--help"}, f"{name} has no {asked - known}"


def test_what_cannot_run_here_is_still_shown_somewhere() -> None:
    shown = [command for _, command in all_commands()]
    shown += [text for page in PAGES for kind, text in blocks(page) if kind == "python"]
    assert [start for start in CANNOT | SLOW if not any(command.startswith(start) for command in shown)] == []
