"""The model's commands, as a user types them."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from retrieval.cli import app

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [[], ["embed"], ["classify"], ["convert"], ["export"], ["eval"], ["search"]])
def test_help_says_what_a_command_does(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert "Example" in result.stdout


def test_converting_reports_and_the_folder_embeds(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(lzma.decompress((GOLDEN / "one_peace_val.pt.xz").read_bytes()))
    result = run("convert", tmp_path / "model.pt", "--out", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    assert "reads text, image, audio" in result.stdout
    assert "everything but text" in result.stderr
    PIL.Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    out = tmp_path / "vectors.jsonl"
    assert run("embed", tmp_path / "a.png", "--out", out, "--model", tmp_path / "folder").exit_code == 0
    assert len(json.loads(out.read_text())["vector"]) == 64


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"nothing")
    result = run("convert", tmp_path / "model.pt", "--out", tmp_path / "folder")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "folder").exists()


def test_classifying_gives_probabilities_and_names_what_it_could_not_read(model_folder: Path, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((30, 30, 3), 200, dtype=np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    result = run(
        "classify",
        tmp_path / "good.png",
        tmp_path / "bad.png",
        "--labels",
        "dog,cat,rain",
        "--model",
        model_folder,
        "--json",
    )
    assert result.exit_code == 3
    row = json.loads(result.stdout)
    assert row["label"] in {"dog", "cat", "rain"}
    assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert "bad.png" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["classify", "a.png", "--labels", "dog"], "two or more"),
        (["classify", "a.docx", "--labels", "dog,cat"], "neither a picture nor a sound"),
        (["eval", "nowhere.parquet"], "no such manifest"),
        (["eval", "nowhere.parquet", "--where", "fold"], "COLUMN=VALUE"),
    ],
)
def test_a_mistake_is_one_line_with_the_reason(arguments: list[str], reason: str, model_folder: Path) -> None:
    result = run(*arguments, "--model", model_folder)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
