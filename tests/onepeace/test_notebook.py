"""What a notebook shows: whole in itself, small, and never what somebody wrote into a name."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

import onepeace
from encoders.display import BYTES, SIDE, media_html
from onepeace import Audio, Compose, Embedder, Image, Text
from onepeace.model_card import licence_line
from onepeace.similarity_table import SimilarityTable
from retrieval import Item, SearchHit
from retrieval.gallery import GALLERY, read_gallery
from retrieval.hits import SHOWN, Hits

EVIL = "<script>alert(1)</script>\"onload='x'"
HARMLESS = {"table", "tr", "th", "td", "span", "img", "div", "figure", "figcaption", "b", "p"}
NOISE = np.random.default_rng(0).normal(scale=0.3, size=16_000 * 30).astype(np.float32)
PIXELS = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def media_of(page: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r"src=\"data:[a-z/]+;base64,([^\"]+)\"", page)]


def test_a_picture_is_a_small_thumbnail_and_a_sound_a_short_player() -> None:
    (picture,) = media_of(Image(PIXELS)._repr_html_())
    assert max(PIL.Image.open(BytesIO(picture)).size) == SIDE
    (sound,) = media_of(Audio(NOISE, 16_000)._repr_html_())
    heard, rate = soundfile.read(BytesIO(sound))
    assert len(heard) / rate == pytest.approx(10, abs=0.2)
    assert max(map(len, (picture, sound))) <= BYTES  # noise is the worst that there is
    (later,) = media_of(media_html(Audio(NOISE, 16_000), start=28.0))
    assert soundfile.info(BytesIO(later)).duration == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("value", [Image("missing.png"), Audio(b"nothing"), Image(PIXELS[:, :0])])
def test_what_cannot_be_read_is_shown_as_the_reason(value: Any) -> None:
    assert "cannot read" in Tags(media_html(value)).words


def evil_hits() -> Hits:
    items = [
        Item(EVIL, "text", "a#1", {"text": EVIL}),
        Item("picture", "image", EVIL),
        Item("sound", "audio", EVIL),
        Item("bare", "text", EVIL),
    ]
    return Hits(SearchHit(item, 0.5, rank) for rank, item in enumerate(items, 1))


def test_what_somebody_wrote_is_never_markup(tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)>.png"
    PIL.Image.fromarray(PIXELS[:9, :9]).save(named)
    values = [EVIL, Text(EVIL), Image(named), Image(EVIL), Compose(EVIL, Image(named))]
    table = SimilarityTable(np.zeros((5, 5), np.float32), values, values)
    for page in (table._repr_html_(), evil_hits()._repr_html_()):
        tags = Tags(page)
        assert {tag for tag, _ in tags.tags} <= HARMLESS
        attributes = {name for _, some in tags.tags for name in some}
        assert attributes <= {"style", "src", "alt"}
        assert "<script>alert(1)</script>" in tags.words
        assert all(some["src"].startswith("data:image/webp;base64,") for tag, some in tags.tags if tag == "img")


def test_hits_are_a_list_like_any_other() -> None:
    hits = evil_hits()
    assert hits == list(hits)
    assert isinstance(hits, list)
    assert json.dumps(Hits([1, 2])) == "[1, 2]"  # type: ignore[list-item]
    first, *_ = lines = repr(Hits(list(hits) * SHOWN)).splitlines()
    assert first == f"0.500  {hits[0].item.modality:5}  {hits[0].item.id}"
    assert (len(lines), lines[-1]) == (SHOWN + 1, f"... {len(hits) * SHOWN - SHOWN} more")
    assert Hits()._repr_html_().count("no hits") == 1
    many = Hits(list(hits) * 10)._repr_html_()
    assert many.count("<figure") == SHOWN
    assert f"the first {SHOWN} of 40" in many


def test_a_table_holds_the_cosines_of_its_inputs(embedder: Embedder) -> None:
    values: list[Any] = ["a dog", Image(PIXELS[:40, :60]), Audio(NOISE[:16_000], 16_000)]
    table = embedder.similarity_table(values, ["rain", "a cat"])
    expected = embedder.encode(values) @ embedder.encode(["rain", "a cat"]).T
    np.testing.assert_allclose(table.values, expected, atol=1e-5)
    tags = Tags(table._repr_html_())
    assert [tag for tag, _ in tags.tags if tag in ("img", "audio")] == ["img", "audio"]
    for cosine in expected.ravel():
        assert f"{cosine:.2f}" in tags.words
        assert f"{cosine:.2f}" in repr(table)
    square = embedder.similarity_table(values)
    np.testing.assert_allclose(np.diag(square.values), 1, atol=1e-5)
    assert (embedder.similarity_table([]).values.shape, repr(embedder.similarity_table([]))) == ((0, 0), "")


def test_a_large_table_is_shown_in_part(embedder: Embedder) -> None:
    table = embedder.similarity_table(["a dog"] * 30)
    assert repr(table).splitlines()[-1] == "the first 20 of 30 x 30"
    assert table._repr_html_().count("<td") == 400


def test_a_model_shows_its_card(embedder: Embedder) -> None:
    words = Tags(embedder._repr_html_()).words
    for told in (
        embedder.name,
        embedder.fingerprint,
        "48 numbers",
        "float32 on cpu",
        "2 blocks, 64 wide, 4 heads",
        "windows of 2 s",
    ):
        assert told in words
    assert [name for name in ("text", "image", "audio") if name not in words] == []


@pytest.mark.parametrize(
    ("card", "line"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nMIT\n", "apache-2.0"),
        (
            "# Licence\n\n| licence |\n\nThe code is **Apache-2.0**,\nthe rest not.",
            "The code is Apache-2.0, the rest not.",
        ),
        ("# A model\n\nNothing is said.", ""),
    ],
)
def test_the_licence_is_what_the_card_says(card: str, line: str) -> None:
    assert licence_line(card) == line


def test_the_shipped_models_licence_is_told() -> None:
    assert "For research." in Tags(onepeace.load("onepeace-tiny")._repr_html_()).words


def test_a_grid_shows_the_gallery() -> None:
    items = [next(item for item in read_gallery() if item.modality == kind) for kind in ("image", "audio")]
    found = [Item(item.id, item.modality, str(GALLERY / item.file)) for item in items]
    page = Hits(SearchHit(item, 0.5, 1) for item in found)._repr_html_()
    assert [tag for tag, _ in Tags(page).tags if tag in ("img", "audio")] == ["img", "audio"]


def test_a_window_of_a_sound_plays_from_its_start(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", NOISE, 16_000)
    item = Item("long.wav#t=27.0", "audio", str(tmp_path / "long.wav"), {"start": 27.0, "end": 30.0})
    (sound,) = media_of(Hits([SearchHit(item, 0.5, 1)])._repr_html_())
    assert soundfile.info(BytesIO(sound)).duration == pytest.approx(3, abs=0.2)
