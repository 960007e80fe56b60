"""`onepeace ask` as a user types it: an album, a document, JSON, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import onepeace
from onepeace.cli import app

GALLERY = Path(__file__).resolve().parents[2] / "retrieval" / "gallery"
NAMES = ("face-tabby-cat", "astronaut-orange-space", "wall-grey-bricks", "bassoon", "melting-ice-cube")


@pytest.fixture(scope="module")
def pictures() -> list[Path]:
    return [GALLERY / "pictures" / f"{name}.webp" for name in NAMES]


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_an_item_is_named_by_number_content_and_neighbour(pictures: list[Path]) -> None:
    texts = ("what is in item 4?", "a cat", "what comes after the cat?")
    options = [part for text in texts for part in ("--text", text)]
    found = json.loads(ask(*pictures, *options, "--top", 2, "--json").stdout)
    assert [answer["text"] for answer in found] == list(texts)
    assert [answer["found"][0]["item"] for answer in found] == [4, 1, 2]
    for answer in found:
        first, second = answer["found"]
        assert first["path"] == str(pictures[first["item"] - 1])
        assert 1 >= first["probability"] >= second["probability"] >= 0


def test_lines_say_where(pictures: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    pages = [Image.open(picture).convert("RGB") for picture in pictures]
    pages[0].save(tmp_path / "deck.tiff", save_all=True, append_images=pages[1:])
    lines = ask(tmp_path / "deck.tiff", "--text", "what is on page 2?").stdout.splitlines()
    (line,) = lines
    probability, page = line.split("%")
    assert page.strip() == "page 2"
    assert 50 < float(probability) <= 100
    lines = ask(*pictures, "--text", "a cat", "--text", "a wall of bricks").stdout.splitlines()
    assert lines[0] == "a cat"
    assert lines[1].endswith(f"item 1  {pictures[0]}")
    assert lines[3].endswith(f"item 3  {pictures[2]}")


def test_what_is_not_there_is_told(pictures: list[Path]) -> None:
    texts = ["what is in item 5?", "what is in item 6?", "a cat", "what comes after the cat?"]
    lines = ask(*pictures, *[part for text in texts for part in ("--text", text)]).stdout.splitlines()
    assert [line.endswith("not there: the last one is item 5") for line in lines[1::2]] == [False, True, False, False]
    found = json.loads(ask(*pictures, *[part for text in texts for part in ("--text", text)], "--json").stdout)
    assert [answer["absent"] >= 0.5 for answer in found] == [False, True, False, False]
    model = onepeace.load_embedder("onepeace-tiny")
    album = model.encode_sequence(onepeace.Sequence([onepeace.Image(picture) for picture in pictures]))
    numbers = [*range(1, 20), *range(20, 400, 19)]
    answers = model.ask([f"what is in item {number}?" for number in numbers], album)
    assert [answer.absent >= 0.5 for answer in answers] == [number > len(pictures) for number in numbers]
    long = onepeace.Sequence(["a dog", "rain"] * 210)  # no number is left
    assert model.ask("what is in item 3?", model.encode_sequence(long)).absent == 0


@pytest.mark.parametrize(("folder", "concept", "many"), [("pictures", "bird", "birds"), ("sounds", "clock", "clocks")])
def test_what_is_there_several_times_is_counted(folder: str, concept: str, many: str) -> None:
    rows = [json.loads(line) for line in (GALLERY / "gallery.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["file"].startswith(f"{folder}/")]
    those = [GALLERY / row["file"] for row in rows if row["concept"] == concept][:4]
    others = [GALLERY / row["file"] for row in rows if concept not in (row["concept"] + row["caption"]).lower()][:10]
    model, wrap = onepeace.load_embedder("onepeace-tiny"), onepeace.Image if folder == "pictures" else onepeace.Audio
    questions = [f"how many {many}?", f"one {concept}", f"four {many}", f"a {concept}", "what is in item 3?"]
    expected = []
    for number in range(1, 5):
        album = model.encode_sequence(onepeace.Sequence(map(wrap, [*others[: 10 - number], *those[:number]])))
        how_many, one, four, *rest = model.ask(questions, album)
        assert abs(how_many.count - number) <= 1
        assert how_many.absent == 0
        assert [answer.count for answer in rest] == [None, None]
        assert one.match > four.match or number > 2
        assert four.match > one.match or number < 3
        expected.append(how_many.count)
    assert expected == sorted(expected)
    files, texts = [*others[:6], *those], ["--text", questions[0], "--text", questions[3]]
    answers = json.loads(ask(*files, *texts, "--top", 4, "--json").stdout)
    assert answers[0]["count"] == expected[-1]
    assert answers[1]["count"] is None
    assert {found["path"] for found in answers[0]["found"]} >= {str(those[0])}
    assert ask(*files, *texts[:2]).stdout.splitlines()[0].split()[:3] == ["about", str(expected[-1]), "of"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.mp4", "--text", "a dog"], "no such file or folder: nothing.mp4"),
        ([GALLERY / "gallery.jsonl", "--text", "a dog"], "neither a picture nor a sound"),
        ([GALLERY / "pictures" / "bassoon.webp", "--text", " "], "--text is empty"),
    ],
)
def test_what_cannot_be_asked_is_told(arguments: list[object], told: str) -> None:
    result = ask(*arguments)
    assert result.exit_code != 0
    assert told in str(result.exception)


def test_a_video_is_asked_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    result = ask(tmp_path / "a.mp4", GALLERY / "pictures" / "bassoon.webp", "--text", "a dog")
    assert "is a sequence of its own" in str(result.exception)


def test_ask_takes_texts_of_any_number() -> None:
    model = onepeace.load_embedder("onepeace-tiny")
    album = model.encode_sequence(onepeace.Sequence(["a dog", "rain"]))
    assert model.ask([], album) == []
    plain, wrapped = model.ask("rain", album), model.ask(onepeace.Text("rain"), album)
    assert plain.match == wrapped.match
    assert repr(plain).startswith("SequenceAnswer('item 2', ")
    with pytest.raises(TypeError, match="ask takes texts, got 3"):
        model.ask([3], album)
    with pytest.raises(TypeError, match="ask reads what encode_sequence returns, got str"):
        model.ask("rain", "photos")
    assert repr(album) == "SequenceEmbedding(2 items of 512 numbers: item 1, item 2)"
    assert repr(album.segments[0]) == "Segment(1, 'text', 'item 1')"


def test_a_film_among_pictures_is_left_out_and_named(pictures: list[Path], tmp_path: Path) -> None:
    for name, picture in zip("ab", pictures, strict=False):
        (tmp_path / f"{name}.webp").write_bytes(picture.read_bytes())
    (tmp_path / "c.mp4").write_bytes(b"")
    result = ask(tmp_path, "--text", "a cat")
    assert result.stdout.strip().endswith(f"item 1  {tmp_path / 'a.webp'}")
    assert result.stderr.strip() == f"{tmp_path / 'c.mp4'}: left out, as a video or a document is asked alone"


def test_a_folder_of_films_alone_is_told_how_to_ask(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"")
    result = ask(tmp_path / "films", "--text", "a dog")
    assert str(result.exception).endswith(f"a video or a document is asked alone: {tmp_path / 'films' / 'a.mp4'}")
