"""Builds that are killed, in processes of their own, over real files."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from character_model import CharacterModel, Encoded

from onepeace import Text
from retrieval import BuildConfig, Store, build_store
from retrieval.table import embed_files

BATCH = BuildConfig().items_at_once


class LoggingModel(CharacterModel):
    """Writes down everything that it embeds, and waits to be stopped once so many lines are there."""

    def __init__(self, log: Path, lines: int | None = None) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.path, self.lines = log, lines

    def encode_many(self, inputs: Sequence[Any], **options: Any) -> Encoded:
        for one in inputs:
            os.write(self.log, f"{one.text if isinstance(one, Text) else Path(one.source).name}\n".encode())
        if self.lines is not None and lines_in(self.path) >= self.lines:
            time.sleep(120)
        return super().encode_many(inputs, **options)


def lines_in(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def build(files: Path, out: Path, log: Path, lines: int | None = None) -> None:
    build_store([files], out, LoggingModel(log, lines))


def embed(files: Path, out: Path, log: Path, lines: int) -> None:
    embed_files([files], out, LoggingModel(log, lines))


def listening(job: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    job(*arguments)


def stopped(job: Callable[..., None], files: Path, out: Path, log: Path, lines: int, how: signal.Signals) -> None:
    """Run a job and stop it as soon as it has embedded so much."""
    context = multiprocessing.get_context("forkserver")  # imports what is slow once, for all of them
    context.set_forkserver_preload(["onepeace.inputs", "retrieval.build", "hypothesis", "pytest"])
    child = context.Process(target=listening, args=(job, files, out, log, lines))
    child.start()
    while child.is_alive() and lines_in(log) < lines:
        time.sleep(0.02)
    assert child.is_alive(), "it was over before it could be stopped"
    assert child.pid is not None
    os.kill(child.pid, how)
    child.join()


def make_files(folder: Path, count: int) -> set[str]:
    """Half texts, half pictures; return what each is called in a log."""
    folder.mkdir()
    names = set()
    for n in range(count // 2):
        (folder / f"{n:05}.txt").write_text(f"text number {n}")
        PIL.Image.new("RGB", (2, 2), (n // 256, n % 256, 0)).save(folder / f"{n:05}.png")
        names |= {f"text number {n}", f"{n:05}.png"}
    return names


@pytest.mark.parametrize("count", [10_000])
def test_ten_thousand_files_indexed_with_three_interruptions_are_there_once_and_embedded_hardly_more(
    tmp_path: Path, count: int
) -> None:
    names = make_files(tmp_path / "files", count)
    store, log = tmp_path / "store", tmp_path / "log"
    for share, how in ((0.15, signal.SIGKILL), (0.5, signal.SIGINT), (0.8, signal.SIGKILL)):
        stopped(build, tmp_path / "files", store, log, round(share * count), how)
    build(tmp_path / "files", store, log)
    embedded = Counter(log.read_text().splitlines())
    assert embedded.keys() == names
    assert embedded.total() - count <= 3 * BATCH
    with Store.open(store, verify=True) as opened:
        assert Counter(Path(item.uri).name for item in opened.catalog) == Counter(
            name if name.endswith(".png") else f"{int(name.split()[-1]):05}.txt#1" for name in names
        )
    before = log.read_bytes()
    report = build_store([tmp_path / "files"], store, LoggingModel(log))
    assert (report.added, report.present, log.read_bytes()) == (0, count, before)


def test_what_is_known_is_not_even_opened(tmp_path: Path) -> None:
    make_files(tmp_path / "files", 20)
    build_store([tmp_path / "files"], tmp_path / "store", CharacterModel())
    for path in (tmp_path / "files").glob("*.png"):  # a pipe: whoever opened it would wait for ever
        path.unlink()
        os.mkfifo(path)
    assert build_store([tmp_path / "files"], tmp_path / "store", CharacterModel()).present == 20


def test_what_a_killed_embedding_left_behind_goes_with_the_next(tmp_path: Path) -> None:
    make_files(tmp_path / "files", 3_000)
    out, log = tmp_path / "vectors.parquet", tmp_path / "log"
    stopped(embed, tmp_path / "files", out, log, 1_000, signal.SIGKILL)
    assert not out.exists()
    assert list(tmp_path.glob("*.part"))
    assert embed_files([tmp_path / "files"], out, CharacterModel()).added == 3_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "log", "vectors.parquet"]
