"""The model's commands, as a user types them."""

from __future__ import annotations

import json
import lzma
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner, Result

import onepeace
from retrieval.cli import app

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", [[], ["embed"], ["classify"], ["calibrate"], ["convert"], ["export"], ["eval"], ["search"], ["bench"]]
)
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


def test_a_folder_converts_back_to_the_checkpoint_that_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(lzma.decompress((GOLDEN / "one_peace_val.pt.xz").read_bytes()))
    assert run("convert", tmp_path / "model.pt", "--out", tmp_path / "folder").exit_code == 0
    result = run("convert", tmp_path / "folder", "--out", tmp_path / "back.pt")
    assert result.exit_code == 0, result.output
    before, after = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("model.pt", "back.pt"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for arguments in (["--out", tmp_path / "back.pt"], ["--out", tmp_path / "b.pt", "--storage", "int8"]):
        result = run("convert", tmp_path / "folder", *arguments)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1
    result = run("convert", ROOT / "onepeace" / "weights" / "onepeace-tiny", "--out", tmp_path / "tiny.pt")
    assert "no adapter of kind bert" in result.stderr
    assert not (tmp_path / "tiny.pt").exists()


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"nothing")
    result = run("convert", tmp_path / "model.pt", "--out", tmp_path / "folder")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "folder").exists()


def test_a_damaged_checkpoint_never_asks_to_trust_it(tmp_path: Path) -> None:
    whole = lzma.decompress((GOLDEN / "one_peace_val.pt.xz").read_bytes())
    for content in (b"\xff\xd8\xff\xe0 a picture", whole[: len(whole) // 2], pickle.dumps(Path())):
        (tmp_path / "model.pt").write_bytes(content)
        for command in ("convert", "export"):
            result = run(command, tmp_path / "model.pt", "--out", tmp_path / "folder")
            assert result.exit_code == 1
            assert "cannot be read as a checkpoint" in result.stderr
            assert "weights_only" not in result.stderr


def test_a_manifest_without_media_is_refused(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("text\na dog\na cat\n")
    result = run("eval", tmp_path / "captions.csv", "--model", model_folder)
    assert result.exit_code == 1
    assert "column image or audio" in result.stderr


def test_classifying_takes_folders_and_goes_on_past_what_is_no_medium(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (30, 30)).save(tmp_path / "photos" / name)
    (tmp_path / "captions.csv").write_text("text\na dog\n")
    result = run(
        "classify", tmp_path / "captions.csv", tmp_path / "photos", "--labels", "dog,cat", "--model", model_folder
    )
    assert result.exit_code == 3
    assert [line.split("\t")[0][-5:] for line in result.stdout.splitlines()] == ["a.png", "b.png"]
    assert "captions.csv: neither a picture nor a sound" in result.stderr


def test_a_wrong_key_in_a_training_config_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("model: {model: configs/model/tiny.yaml, los: 1}\ndata: {streams: []}\n")
    result = run("train", "fit", "--config", config)
    assert result.exit_code == 1
    assert "model.los" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_release_is_said() -> None:
    assert run("--version").stdout == f"onepeace {onepeace.__version__}\n"


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
        (["classify", "a.png", "--labels", "dog"], "two names or more"),
        (["classify", "a.docx", "--labels", "dog,cat"], "no picture and no sound"),
        (["convert", "nowhere.pt", "--out", "tests"], "not an empty folder"),
        (["export", "nowhere.ckpt", "--out", "tests"], "not an empty folder"),
        (["eval", "nowhere.parquet"], "no such manifest"),
        (["eval", "nowhere.parquet", "--where", "fold"], "COLUMN=VALUE"),
    ],
)
def test_a_mistake_is_one_line_with_the_reason(arguments: list[str], reason: str, model_folder: Path) -> None:
    model = [] if arguments[0] in ("convert", "export") else ["--model", model_folder]
    result = run(*arguments, *model)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
