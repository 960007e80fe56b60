from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console
from scipy.stats import hypergeom

import onepeace
from onepeace.metrics import recall_at_k
from retrieval import Searcher, Store, StoreError, unit_rows
from retrieval.demo import DIRECTIONS, KS, chance, run_demo
from retrieval.demo_report import DemoReport
from retrieval.demo_table import print_report
from retrieval.gallery import GALLERY, GalleryItem, read_gallery

SHIPPED = Path(onepeace.__file__).parent / "weights" / "onepeace-tiny"
NASTY = "A <script>alert('x')</script> \"quoted\" & </style> caption."


class HashModel:
    """Gives whatever it is handed a direction of its own, at random but always the same."""

    name = "hash"
    fingerprint = "0badcafe" * 2
    dimension = 24

    def encode(self, inputs: Any) -> npt.NDArray[np.float32]:
        return unit_rows(np.stack([self._direction(one) for one in inputs]), self.dimension)

    def _direction(self, one: Any) -> npt.NDArray[np.float64]:
        if isinstance(one, onepeace.Compose):
            return np.sum([self._direction(part) for part in one.parts], axis=0)
        if isinstance(one, onepeace.Text):
            one = one.text
        content = one.encode() if isinstance(one, str) else Path(one.source).read_bytes()
        return np.random.default_rng(zlib.crc32(content)).normal(size=self.dimension)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures and three sounds of ours; one has a caption, a title and a concept that must be escaped."""
    folder = tmp_path_factory.mktemp("gallery")
    kept = {
        "picture/two-sailing-boats",
        "picture/face-tabby-cat",
        "picture/white-cow-horns",
        "sound/waves-washing-sea",
        "sound/long-moo-cow",
        "sound/voice-one",
    }
    items = [item for item in read_gallery() if item.id in kept]
    items.append(next(item for item in read_gallery() if item.concept == "sneeze"))
    items[-1] = replace(items[-1], caption=NASTY, concept="</script>", title=NASTY, attribution=NASTY)
    for item in items:
        (folder / item.file).parent.mkdir(exist_ok=True)
        shutil.copy(GALLERY / item.file, folder / item.file)
    lines = [json.dumps(vars(item)) for item in items]
    (folder / "gallery.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def exhibits(gallery: Path) -> list[GalleryItem]:
    return read_gallery(gallery)


@pytest.fixture(scope="module")
def report(gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    return run_demo(tmp_path_factory.mktemp("demo") / "out", HashModel(), gallery=gallery)


@pytest.fixture(scope="module")
def page(report: DemoReport) -> str:
    return report.page.read_text(encoding="utf-8")


class References(HTMLParser):
    """Collects what a page points to, and its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.others: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href") and value is not None:
                (self.links if tag == "a" else self.others).append(value)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.words += data


def test_the_page_holds_every_picture_and_sound_once(page: str, gallery: Path, exhibits: list[GalleryItem]) -> None:
    for item in exhibits:
        assert page.count(base64.b64encode((gallery / item.file).read_bytes()).decode()) == 1, item.id


def test_the_page_loads_nothing_from_outside(page: str) -> None:
    references = References(page)
    assert all(address.startswith(("#", "data:")) for address in references.others)
    assert all(part.startswith("data:") for part in page.split("url(")[1:])
    assert "default-src 'none'" in page
    # The only addresses are those of the credits' links.
    assert re.sub(r"data:[\w/;,+=]+", "", page).count("://") == len(references.links) > 0
    assert "@import" not in page


def test_the_page_escapes_captions(page: str) -> None:
    assert "<script>alert" not in page
    assert page.count("</script>") == page.count("<script") == 2  # the page's data and its program
    assert page.count("</style>") == page.count("<style") == 1
    assert NASTY in References(page).words  # and shows them as they are


def test_recall_is_that_of_recall_at_k(report: DemoReport) -> None:
    with Store.open(report.store) as store:
        items = list(store.catalog)
        rows = store.vectors([item.id for item in items])
    kinds = {item.id: item.modality for item in items}
    for direction in report.directions:
        keys = [n for n, item in enumerate(items) if item.modality == direction.target]
        concepts = [items[n].metadata["concept"] for n in keys]
        queries = [
            n
            for n, item in enumerate(items)
            if item.modality == direction.query
            and (
                kinds[item.metadata["of"]] == direction.target
                if direction.query == "text"
                else item.metadata["concept"] in concepts
            )
        ]
        assert (direction.queries, direction.candidates) == (len(queries), len(keys))
        scores = rows[queries] @ rows[keys].T

        def recall(field: str, scores: Any = scores, queries: Any = queries, keys: Any = keys) -> dict[int, float]:
            of = [items[n].metadata[field] for n in queries], [items[n].metadata[field] for n in keys]
            return {k: percent / 100 for k, percent in recall_at_k(scores, *of, ks=KS).items()}

        assert direction.concept == pytest.approx(recall("concept"))
        if direction.own is not None:
            assert direction.own == pytest.approx(recall("of"))


def test_all_six_directions_are_there_and_exact_recall_only_where_there_are_captions(report: DemoReport) -> None:
    assert {(direction.query, direction.target) for direction in report.directions} == set(DIRECTIONS)
    for direction in report.directions:
        assert (direction.own is None) == ("text" not in (direction.query, direction.target))


@pytest.mark.parametrize(("right", "candidates", "k"), [(1, 57, 1), (4, 57, 5), (8, 98, 5), (3, 3, 2)])
def test_chance_is_the_hypergeometric_one(right: int, candidates: int, k: int) -> None:
    assert chance(right, candidates, k) == pytest.approx(hypergeom.sf(0, candidates, right, k))


def test_the_store_can_be_searched_afterwards(report: DemoReport, exhibits: list[GalleryItem]) -> None:
    with Store.open(report.store, verify=True) as store:
        assert store.catalog.counts() == report.counts
        assert len(store) == 2 * len(exhibits)
        for item in store.catalog:
            assert Path(item.uri.split("#")[0]).is_file()
        picture = report.folder / "gallery" / "pictures" / "face-tabby-cat.webp"
        best = Searcher(store, HashModel()).search(onepeace.Image(str(picture)), top_k=1)
        assert best[0].item.id == "picture/face-tabby-cat"
        assert best[0].score == pytest.approx(1, abs=1e-5)


def test_a_composed_query_lies_between_its_parts(report: DemoReport) -> None:
    assert report.mixes
    for first, _, both in report.mixes:
        assert first.query[0] in both.query
        assert len(both.query) == 2


def test_a_second_run_replaces_the_first_and_leaves_the_rest(tmp_path: Path, gallery: Path) -> None:
    out = tmp_path / "demo"
    run_demo(out, HashModel(), gallery=gallery)
    (out / "gallery" / "stale.txt").write_text("old")
    (out / "mine.txt").write_text("keep me")
    again = run_demo(out, HashModel(), gallery=gallery)
    assert again.page.is_file()
    assert not (out / "gallery" / "stale.txt").exists()
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path, gallery: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="was not written by `onepeace demo`"):
        run_demo(tmp_path, HashModel(), gallery=gallery)
    with pytest.raises(ValueError, match="was not written by `onepeace demo`"):
        run_demo(tmp_path / "thesis.txt", HashModel(), gallery=gallery)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unknown_model_costs_nothing(tmp_path: Path, gallery: Path) -> None:
    out = tmp_path / "demo"
    page = run_demo(out, HashModel(), gallery=gallery).page
    before = page.read_bytes()
    with pytest.raises(ValueError, match="no-such-model"):
        run_demo(out, "no-such-model", gallery=gallery)
    assert page.read_bytes() == before


def test_the_tables_fit_a_terminal(report: DemoReport) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    print_report(report, console)
    printed = console.export_text()
    assert len(printed.splitlines()) <= 40
    shown = [search for direction in report.directions for search in direction.examples[:1]]
    for search in (*shown, *(both for *_, both in report.mixes)):
        assert f" {search.hits[0].score:.2f} " in printed
    for line in printed.splitlines():
        assert len(line) <= 80 or str(report.folder) in line
    for direction in ("words → pictures", "pictures → words", "words → sounds", "sounds → words", "pictures → sounds"):
        assert direction in printed
    assert str(report.page) in printed


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the weights of onepeace-tiny are not in the package")
def test_the_shipped_model_finds_far_more_than_chance(tmp_path: Path) -> None:
    report = run_demo(tmp_path / "demo")
    assert report.page.stat().st_size < 8e6
    for direction in report.directions:
        assert direction.concept[5] > 1.5 * direction.chance[5], direction
    with pytest.raises(StoreError, match="different models"), Store.open(report.store) as store:
        Searcher(store, HashModel())
