"""`onepeace predict` as a user types it: files and manifests, formats, drawings, failures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import PIL.Image
import pytest
from little_media import picture, sound
from task_models import write_task_models
from typer.testing import CliRunner, Result

import onepeace
from retrieval.cli import app


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_models(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / f"{number}.flac").write_bytes(sound(number))
    (folder / "notes.md").write_text("nothing to ask about")
    rows = [
        {"id": f"q{n}", "image": f"{n}.png", "image2": "2.png", "audio": f"{n}.flac", "text": text, "split": "test"}
        | {"choices": ["a dog", "rain"], "label": "rain"}
        for n, text in enumerate(["a dog", "the cat", "rain"])
    ]
    rows += [{"id": "bad", "image": "gone.png", "text": "a dog", "split": "test"}, {"id": "other", "split": "train"}]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_lines_json_and_the_table_tell_the_same(models: Path, media: Path, tmp_path: Path) -> None:
    options = media / "0.png", media / "1.png", "--model", models / "classify", "--top", "2"
    lines = [line.split("\t") for line in predict(*options).stdout.splitlines()]
    rows = [json.loads(line) for line in predict(*options, "--json").stdout.splitlines()]
    assert predict(*options, "--csv", tmp_path / "out.csv").stdout == ""
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    answers = onepeace.load_task(models / "classify").predict(image=[str(media / "0.png"), str(media / "1.png")])
    for line, row, cells, answer in zip(lines, rows, table, answers, strict=True):
        assert line[0] == row["path"] == cells["path"]
        assert line[1] == row["label"] == cells["label"] == answer.label
        assert [line[1], line[3]] == list(row["probabilities"]) == [cells["label"], cells["label_2"]]
        assert float(cells["probability"]) == pytest.approx(answer.probability, abs=1e-5)
        assert float(line[2]) == pytest.approx(answer.probability, abs=1e-3)


def test_every_text_is_asked_of_every_file_and_boxes_are_drawn(models: Path, media: Path, tmp_path: Path) -> None:
    texts = "--text", "a dog", "--text", "the cat"
    result = predict(media, "--model", models / "ground", *texts, "--json", "--draw", tmp_path / "drawn")
    assert result.exit_code == 3  # the sounds in the folder
    assert "a sound, and the model reads text and image" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(row["path"]).name, row["text"]) for row in rows] == [
        (f"{n}.png", text) for n in range(3) for text in ("a dog", "the cat")
    ]
    found = onepeace.load_task(models / "ground").ask(image=media / "1.png", text="the cat")
    assert rows[3]["box"] == pytest.approx(list(found.box), abs=2e-3)
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["0-2.png", "0.png", "1-2.png", "1.png", "2-2.png", "2.png"]
    with PIL.Image.open(tmp_path / "drawn" / "0.png") as drawn:
        assert drawn.width == 512


def test_a_manifest_says_what_belongs_together(models: Path, media: Path, tmp_path: Path) -> None:
    manifest = "--manifest", media / "questions.jsonl", "--where", "split=test"
    for name, reads in {
        "pair": ("text", "image", "image2"),
        "both": ("image", "audio"),
        "choose": ("text", "audio"),
    }.items():
        result = predict(*manifest, "--model", models / name, "--json")
        assert result.exit_code == 3, result.stderr
        assert result.stderr.count("not read: bad: ") == 1  # its picture is gone, or it has no sound
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["id"] for row in rows] == ["q0", "q1", "q2"]
        asked = {
            part: str(media / {"image": "1.png", "image2": "2.png", "audio": "1.flac"}.get(part, "")) for part in reads
        }
        asked |= {"text": "the cat"} if "text" in reads else {}
        answer = onepeace.load_task(models / name).ask(
            asked | ({"choices": ["a dog", "rain"]} if name == "choose" else {})
        )
        assert rows[1]["probabilities"] == pytest.approx(answer.probabilities, abs=1e-5)
    table = predict(*manifest, "--model", models / "locate", "--csv", tmp_path / "out.csv", "--threshold", "0.99")
    assert table.exit_code == 3
    header, *rows_ = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "id,text,present,start,end,score"
    assert {row.split(",")[0] for row in rows_} == {"q0", "q1", "q2"}


def test_spans_and_several_boxes_in_every_format(models: Path, media: Path, tmp_path: Path) -> None:
    for name, file, column in (("locate", "0.flac", "start"), ("detect", "0.png", "left")):
        options = media / file, "--model", models / name, "--text", "a dog", "--threshold", "0.01"
        (row,) = (json.loads(line) for line in predict(*options, "--json", "--draw", tmp_path).stdout.splitlines())
        found = row["spans"] if name == "locate" else row["boxes"]
        predict(*options, "--csv", tmp_path / "out.csv")
        with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        assert [float(cells["score"]) for cells in table] == [one["score"] for one in found]
        first = [one["start"] if name == "locate" else one["box"][0] for one in found]
        assert [float(cells[column]) for cells in table] == pytest.approx(first, abs=0.06)
        (line,) = predict(*options).stdout.splitlines()
        assert len(line.split("\t")) == 2 + 2 * len(found)
        (absent,) = predict(*options, "--threshold", "1").stdout.splitlines()
        assert absent.split("\t")[2:] == ["not present"]
    assert (tmp_path / "0.png").is_file()
    assert (tmp_path / "0-2.png").is_file()


def test_a_text_alone_is_asked_with_text(models: Path) -> None:
    result = predict("--model", models / "words", "--text", "a dog", "--text", "rain")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["a dog", "rain"]


def test_what_cannot_be_read_is_named_and_stops_nothing(models: Path, media: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(picture(0)[:60])
    result = predict(media / "0.png", tmp_path / "cut.png", tmp_path / "gone.png", "--model", models / "classify")
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 1
    assert f"not read: {tmp_path / 'cut.png'}: cannot read image" in result.stderr
    assert f"not read: {tmp_path / 'gone.png'}" in result.stderr
    only = predict(tmp_path / "cut.png", "--model", models / "classify")
    assert only.exit_code == 1
    assert only.stderr.startswith(f"error: none of 1 could be answered: {tmp_path / 'cut.png'}: cannot read image")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("M/0.png --model onepeace-tiny", "--model onepeace-tiny embeds and was trained for no task"),
        ("M/0.png --model nowhere", "no model 'nowhere'"),
        ("M/0.png --model T/ground", "the model reads text and image: give --text, or --manifest FILE"),
        ("--model T/ground --text a", "the model reads text and image: give files or folders, or --manifest FILE"),
        ("M/0.png --model T/classify --text a", "--text is for another model: this one reads image"),
        ("M/0.png --model T/pair --text a", "give --image2, or --manifest FILE"),
        ("M/0.png --model T/both", "which belong together, a manifest says"),
        ("M/0.png --model T/words --text a", "so it is asked with --text and no files"),
        ("M/0.flac --model T/choose", "give --choices, or --manifest FILE"),
        ("M/0.png --model T/classify --draw out", "--draw is for models that find boxes or spans"),
        ("M/0.png --model T/classify --json --csv out.csv", "choose one of --csv and --json"),
        ("M/0.png --manifest M/questions.jsonl --model T/classify", "give files or --manifest, one of both"),
        ("M/0.png --where a=b --model T/classify", "--where keeps rows of a --manifest"),
        ("--manifest M/questions.jsonl --where nothing=b --model T/classify", "has no column nothing"),
        ("M/notes.md --model T/classify", "neither a picture nor a sound"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: str, reason: str, models: Path, media: Path) -> None:
    given = [one.replace("M/", f"{media}/").replace("T/", f"{models}/") for one in arguments.split()]
    result = predict(*given)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert reason in line
