"""`onepeace eval` as a user types it: class folders, bad files, and the page it writes."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from little_media import picture, sound
from typer.testing import CliRunner, Result

from onepeace import Embedder, Image, ZeroShotClassifier
from onepeace.evaluate.classification import Classification
from onepeace.evaluate.report import render_report, report_file
from onepeace.evaluate.run import Evaluation
from onepeace.zero_shot import IMAGE_TEMPLATES
from retrieval.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Twelve pictures and six sounds of three classes, one of them in a folder below its class's."""
    folder = tmp_path / "by-class"
    for i, name in enumerate(("dog", "cat_on-a_street", "rain")):
        (folder / name / "more").mkdir(parents=True)
        for j in range(4):
            (folder / name / ("more" if j == 3 else "") / f"{j}.png").write_bytes(picture(4 * i + j))
        for j in range(2):
            (folder / name / f"{j}.flac").write_bytes(sound(2 * i + j))
        (folder / name / "notes.txt").write_text("no medium")
        (folder / name / ".DS_Store").write_bytes(b"hidden")
    return folder


def test_a_folder_is_classified_by_the_names_of_its_folders(
    classes: Path, embedder: Embedder, model_folder: Path
) -> None:
    result = run("eval", classes, "--model", model_folder, "--json")
    assert result.exit_code == 0, result.output
    found = {(m["task"], m["metric"]): m for m in json.loads(result.stdout)}
    names = ["cat on a street", "dog", "rain"]
    classifier = ZeroShotClassifier(embedder, names, IMAGE_TEMPLATES)
    truth = ["dog"] * 4 + ["cat on a street"] * 4 + ["rain"] * 4
    predicted = classifier.predict([Image(picture(i)) for i in range(12)])
    measured = found["zero-shot image", "accuracy"]
    assert measured["value"] == pytest.approx(
        100 * np.mean([p.label == t for p, t in zip(predicted, truth, strict=True)])
    )
    assert (measured["queries"], measured["candidates"], measured["source"]) == (12, 3, "by-class")
    assert measured["low"] <= measured["value"] <= measured["high"]
    assert measured["chance"] == pytest.approx(100 / 3)
    assert found["zero-shot audio", "accuracy"]["queries"] == 6


def test_vectors_may_be_cut_before_they_are_measured(
    classes: Path, embedder: Embedder, model_folder: Path, tmp_path: Path
) -> None:
    result = run("eval", classes, "--model", model_folder, "--dtype", "float32", "--truncate-dim", 3, "--json")
    assert result.exit_code == 0, result.output
    found = {(m["task"], m["metric"]): m["value"] for m in json.loads(result.stdout)}
    names = ["cat on a street", "dog", "rain"]
    prompts = [template.format(name) for name in names for template in IMAGE_TEMPLATES]
    rows_LTD = embedder.encode(prompts)[:, :3].reshape(3, len(IMAGE_TEMPLATES), 3)
    rows_LTD = rows_LTD / np.linalg.norm(rows_LTD, axis=2, keepdims=True)
    labels_LD = rows_LTD.mean(axis=1) / np.linalg.norm(rows_LTD.mean(axis=1), axis=1, keepdims=True)
    pictures_ND = embedder.encode([Image(picture(i)) for i in range(12)])[:, :3]
    best = (pictures_ND @ labels_LD.T).argmax(axis=1)
    truth = np.repeat([1, 0, 2], 4)  # in the order of the pictures
    assert found["zero-shot image", "accuracy"] == pytest.approx(100 * (best == truth).mean())
    too_long = run("eval", classes, "--model", model_folder, "--truncate-dim", 10_000)
    assert too_long.exit_code == 1
    assert "truncate_dim must be between 1 and" in too_long.stderr


def test_what_cannot_be_read_is_named_once_and_the_rest_is_measured(classes: Path, model_folder: Path) -> None:
    (classes / "dog" / "bad.png").write_bytes(b"no picture")
    (classes / "empty").mkdir()
    (classes / "broken").mkdir()
    (classes / "broken" / "a.png").write_bytes(b"no picture")
    (classes / "loose.png").write_bytes(picture(1))
    result = run("eval", classes, "--model", model_folder)
    assert result.exit_code == 3
    assert result.stdout.strip().splitlines()[0].strip().endswith(" on by-class")
    assert re.search(
        r"by-class +zero-shot image +accuracy +[\d.]+ \[[\d.]+, [\d.]+\] +33\.3 +[\d.]+ +12 +3\b", result.stdout
    )
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 5
    for text in (
        "bad.png",
        "a.png",
        "empty: no picture and no sound",
        "broken: no row of this class",
        "loose.png: it lies",
    ):
        assert sum(text in line for line in lines) == 1


def test_fewer_than_two_classes_are_refused(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.png").write_bytes(picture(1))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "b.png").write_bytes(b"no picture")
    result = run("eval", tmp_path, "--model", model_folder)
    assert result.exit_code == 1
    assert "fewer than two" in result.stderr
    (tmp_path / "nothing").mkdir()
    result = run("eval", tmp_path / "nothing", "--model", model_folder)
    assert result.exit_code == 1
    assert "one sub-folder a class" in result.stderr


def test_a_probe_may_be_a_folder_too(classes: Path, tmp_path: Path, model_folder: Path) -> None:
    for i, name in enumerate(("dog", "cat-on-a-street")):
        (tmp_path / "known" / name).mkdir(parents=True)
        for j in range(3):
            (tmp_path / "known" / name / f"{j}.png").write_bytes(picture(20 + 3 * i + j))
    result = run("eval", classes, "--probe", tmp_path / "known", "--model", model_folder, "--json")
    assert result.exit_code == 0, result.output
    found = {(m["task"], m["metric"]): m for m in json.loads(result.stdout)}
    assert found["linear probe image", "accuracy"]["candidates"] == 2
    assert ("kNN audio", "accuracy") not in found


class Page(HTMLParser):
    """What a page refers to, and how often each element occurs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.classes: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.classes += [word for name, value in attrs if name == "class" for word in (value or "").split()]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.flac").write_bytes(sound(i))
    rows: list[dict[str, object]] = [
        {
            "id": f"p{i}",
            "source": "pairs",
            "image": f"{i}.png",
            "audio": f"{i}.flac",
            "label": None,
            "texts": [{"lang": "en", "text": f"a dog <script>alert({i})</script>"}],
        }
        for i in range(8)
    ]
    rows += [
        {"id": f"c{i}", "source": "classed", "image": f"{i}.png", "label": "<b>cat</b>" if i % 2 else "a & b"}
        for i in range(8)
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_report_is_one_page_with_every_figure_and_nothing_from_outside(
    pairs: Path, tmp_path: Path, model_folder: Path
) -> None:
    result = run("eval", pairs, "--model", model_folder, "--report", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.references
    assert all(reference.startswith("data:audio/ogg;base64,") for reference in page.references)
    assert all(found.startswith("data:image/webp") for found in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(r"https?://", text)
    assert "script" not in page.tags
    assert "b>cat" not in text.replace("&lt;b&gt;cat&lt;/b&gt;", "")
    words = " ".join(page.words)
    for m in json.loads(result.stdout):
        assert f"{m['value']:.1f}" in words
        assert f"[{m['low']:.1f}, {m['high']:.1f}]" in words
    assert page.tags.count("polyline") == 12  # six directions, and chance for each
    assert page.classes.count("search") == 36  # six queries each
    rights = sum(m["value"] * 8 / 100 for m in json.loads(result.stdout) if m["metric"] == "R@5")
    assert 0 < page.classes.count("right") <= rights  # six of eight queries are shown
    assert page.classes.count("matrix") == 1


def test_what_the_report_embeds_is_small_and_opens(pairs: Path, tmp_path: Path, model_folder: Path) -> None:
    PIL.Image.new("RGB", (900, 300), "red").save(pairs.parent / "0.png")
    soundfile.write(pairs.parent / "0.flac", np.zeros((60 * 8_000, 2), dtype=np.float32), 8_000)  # a silent minute
    run("eval", pairs, "--model", model_folder, "--report", tmp_path / "page.html", "--where", "source=pairs")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    sizes = [
        PIL.Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"data:image/webp;base64,([^)]+)\)", text)
    ]
    assert sizes
    assert all(max(size) <= 128 for size in sizes)
    for data in re.findall(r"data:audio/ogg;base64,([^\"]+)\"", text):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert len(samples) <= 10.1 * rate


@pytest.mark.parametrize("count", [6, 60, 200, 230])
def test_confusions_of_many_classes_stay_readable(count: int, rng: np.random.Generator) -> None:
    names = [f"class {i}" for i in range(count)]
    scores = rng.normal(size=(400, count))
    truth = [names[i] for i in rng.integers(0, count, 400)]
    one = Classification("s", "zero-shot image", names, scores, truth, [str(i) for i in range(400)])
    text = render_report(Evaluation("m", ["x"], [one]), {})
    page = Page(text)
    assert page.classes.count("matrix") == (count <= 200)
    if count <= 200:
        assert page.tags.count("g") == np.count_nonzero(one.confusion)
    assert page.tags.count("ol") == 1
    for pair in one.most_confused():
        assert f"{pair.true} <span" in text


def test_a_file_that_is_no_report_is_never_written_over(pairs: Path, tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "mine.html").write_text("<p>my own page")
    result = run("eval", pairs, "--model", model_folder, "--report", tmp_path / "mine.html")
    assert result.exit_code == 1
    assert "no report" in result.stderr
    assert (tmp_path / "mine.html").read_text() == "<p>my own page"
    page = report_file(tmp_path / "again.html")
    page.write_text(render_report(Evaluation("m", [], []), {}))
    assert report_file(page) == page
