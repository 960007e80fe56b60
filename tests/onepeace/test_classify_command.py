"""`onepeace classify` as a user types it: formats, labels from a file, failures, many files, an interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from little_media import picture, sound
from typer.testing import CliRunner, Result

import onepeace
from onepeace import Calibration
from onepeace.checkpoint import open_folder
from retrieval.cli import app

ROOT = Path(__file__).resolve().parents[2]
FIT = Calibration(temperature=0.05, fit_cosine=0.0, fit_width=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    path = shutil.copytree(model_folder, tmp_path_factory.mktemp("calibrated") / "model")
    open_folder(path).write_calibrations({"image": FIT, "audio": FIT}, {"image": ["photos"], "audio": ["sounds"]})
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    (folder / "deep" / "a.flac").write_bytes(sound(1))
    (folder / "deep" / "notes.md").write_text("nothing to classify")
    (folder / "deep" / ".hidden" / "b.png").write_bytes(picture(9))
    return folder


def classify(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["classify", *map(str, arguments)])


def test_lines_json_and_the_table_tell_the_same(media: Path, model: Path, tmp_path: Path) -> None:
    options = media, "--model", model, "--labels", "dog,cat,rain", "--top", "2"
    lines = [line.split("\t") for line in classify(*options).stdout.splitlines()]
    rows = [json.loads(line) for line in classify(*options, "--json").stdout.splitlines()]
    written = classify(*options, "--csv", tmp_path / "out.csv")
    assert written.stdout == ""
    assert written.stderr.splitlines()[-1] == f"written: {tmp_path / 'out.csv'}"
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [Path(line[0]).name for line in lines] == ["0.png", "1.png", "2.png", "a.flac"]
    for line, row, cells in zip(lines, rows, table, strict=True):
        assert line[0] == row["path"] == cells["path"]
        assert line[1] == row["label"] == cells["label"] == next(iter(row["probabilities"]))
        assert [line[1], line[3]] == list(row["probabilities"]) == [cells["label"], cells["label_2"]]
        assert float(cells["probability"]) == pytest.approx(row["probability"], abs=1e-6)
        assert float(line[2]) == pytest.approx(row["probability"], abs=5e-4)


def test_the_answers_are_the_classifiers(media: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a dog\n\nthe rain\n  a cat \n", encoding="utf-8")
    result = classify(media / "1.png", "--labels-file", tmp_path / "labels.txt", "--json", "--model", model)
    classifier = onepeace.ZeroShotClassifier(onepeace.load(model), ["a dog", "the rain", "a cat"])
    (told,) = classifier.predict([onepeace.Image(media / "1.png")])
    assert json.loads(result.stdout)["probabilities"] == pytest.approx(told.probabilities, abs=1e-5)


def test_all_labels_that_fit_are_named(media: Path, model: Path, tmp_path: Path) -> None:
    options = media, "--model", model, "--labels", "dog,cat,rain", "--multi", "--threshold", "0.4"
    for row in map(json.loads, classify(*options, "--json").stdout.splitlines()):
        fitting = {label: score for label, score in row["scores"].items() if score >= 0.4}
        assert row["labels"] == sorted(fitting, key=lambda label: -fitting[label])
    assert classify(*options, "--csv", tmp_path / "out.csv").exit_code == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "path,labels,dog,cat,rain"


def test_other_where_nothing_fits(media: Path, model: Path) -> None:
    options = media, "--model", model, "--labels", "dog,cat,rain", "--other", "--threshold"
    assert {line.split("\t")[1] for line in classify(*options, "0.999").stdout.splitlines()} == {"other"}
    assert "other" not in classify(*options, "0.001").stdout


def test_decisions_are_drawn(media: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(5))
    files = media / "0.png", tmp_path / "0.png", media / "deep" / "a.flac"
    result = classify(*files, "--model", model, "--labels", "dog,cat", "--explain", tmp_path / "why")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["0-2.png", "0.png", "a.png"]
    with PIL.Image.open(tmp_path / "why" / "a.png") as drawn:
        assert drawn.width > drawn.height


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--labels", "dog"], "two names or more, with commas between them, got 'dog' alone"),
        (["--labels", "dog,cat,dog"], "'dog' is there twice"),
        (["--labels", "dog,cat", "--templates", "a photo"], "needs {} where the label goes"),
        ([], "--labels a,b,c or with --labels-file"),
        (["--labels", "dog,cat", "--threshold", "0.5"], "goes with --multi"),
        (["--labels", "dog,cat", "--multi", "--other"], "takes no --other"),
        (["--labels", "dog,cat", "--json", "--csv", "out.csv"], "one of --csv and --json"),
        (["--labels-file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_line(media: Path, model: Path, options: list[str], reason: str) -> None:
    result = classify(media, "--model", model, *options)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_readable_file_is_an_error_and_an_unknown_option_another(media: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    result = classify(tmp_path, "--labels", "dog,cat", "--model", model)
    assert result.exit_code == 1
    assert "none of 1 files could be read" in result.stderr
    assert classify(media, "--labels", "dog,cat", "--lables", "x").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal's Ctrl-C is a signal elsewhere")
def test_what_was_written_stays_after_ctrl_c(model: Path, tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number:03}.png").write_bytes(picture(number % 5))
    command = [sys.executable, "-m", "retrieval", "classify", str(tmp_path), "--labels", "dog,cat", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--model", str(model), "--batch-size", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(8)]  # the first part of the files, long before the last
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    told = [json.loads(line)["path"] for line in [*first, *rest.splitlines()]]
    assert process.returncode != 0
    assert len(told) < 400
    assert told == [str(tmp_path / f"{number:03}.png") for number in range(len(told))]
