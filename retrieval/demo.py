"""`onepeace demo`: the gallery that ships, embedded, searched in every direction, and shown on one page."""

from __future__ import annotations

import shutil
import time
import webbrowser
from collections import Counter
from collections.abc import Sequence
from math import comb
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .demo_report import DemoReport, DirectionReport, Search
from .gallery import GALLERY, GalleryItem, read_gallery

if TYPE_CHECKING:
    from .catalog import Item
    from .search import QueryModel, Searcher, SearchHit

KS = (1, 5)
SHOWN = 6  # nearest items of each modality that the page shows
BATCH = 16  # inputs between two steps of the progress bar
MARK = ".onepeace-demo"  # tells a folder that we may write over from one that we may not
PARTS = ("index.html", "gallery", "store")  # what we write, beside the mark

# The directions, each with queries to show. They are chosen for what they are about, not for what they find.
DIRECTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("text", "image"): (
        "caption/picture/brown-cow-bell",
        "caption/picture/two-sailing-boats",
        "caption/picture/cup-coffee-wooden",
        "caption/picture/rocket-launch-pad",
    ),
    ("image", "text"): (
        "picture/face-tabby-cat",
        "picture/astronaut-orange-space",
        "picture/elephant-white-tusks",
        "picture/red-umbrella-rainy",
    ),
    ("text", "audio"): (
        "caption/sound/dog-barking-again",
        "caption/sound/heavy-rain-pouring",
        "caption/sound/baby-lets-long",
        "caption/sound/chainsaw-revving-again",
    ),
    ("audio", "text"): (
        "sound/helicopter-flying-overhead",
        "sound/rooster-crowing",
        "sound/tick-tock-clock",
        "sound/person-sneezes-three",
    ),
    ("image", "audio"): (
        "picture/cartoon-rooster-green",
        "picture/two-sailing-boats",
        "picture/round-clock-two",
        "picture/white-cow-horns",
    ),
    ("audio", "image"): (
        "sound/rooster-crows-long",
        "sound/waves-washing-sea",
        "sound/fire-crackling-popping",
        "sound/long-moo-cow",
    ),
}

# Composed queries: something from the gallery, words of our own, and what to look for.
MIXES = (
    ("sound/long-moo-cow", "a white animal", "image"),
    ("sound/waves-washing-sea", "footprints", "image"),
    ("sound/fire-crackling-popping", "cooking a fish", "image"),
    ("picture/two-sailing-boats", "a storm with thunder and rain", "audio"),
)


def run_demo(
    out: Path, model: str | QueryModel = "onepeace-tiny", open_browser: bool = False, *, gallery: Path = GALLERY
) -> DemoReport:
    """Embed a gallery into a store below `out`, search it in every direction, and write a page that shows it.

    `out` is new, empty, or what an earlier demo wrote; then its page, gallery and store are replaced. Raises ValueError
    for any other folder, and for a model that cannot be loaded.
    """
    from .demo_page import render_page
    from .manifest import ModelTag
    from .search import Searcher
    from .store import Store

    _must_be_free(out)
    started = time.monotonic()
    if isinstance(model, str):
        import onepeace

        model = onepeace.load_embedder(model)
    _make_free(out)
    exhibits = read_gallery(gallery)
    shutil.copytree(gallery, out / "gallery", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    items = _items(exhibits, (out / "gallery").absolute())
    vectors = _embed(items, model)
    with Store.create(out / "store", items, vectors, model=ModelTag.of(model)) as store:
        searcher = Searcher(store, model)
        neighbours = _neighbours(items, vectors, searcher)
        report = DemoReport(
            model=model.name,
            dimension=model.dimension,
            counts=store.catalog.counts(),
            directions=[_evaluate(*ends, shown, items, neighbours) for ends, shown in DIRECTIONS.items()],
            mixes=_mixes(items, searcher),
            neighbours=neighbours,
            folder=out,
            seconds=time.monotonic() - started,
        )
    report.page.write_text(render_page(report, items, exhibits), encoding="utf-8")
    if open_browser:
        webbrowser.open(report.page.absolute().as_uri())
    return report


def demo_command(
    out: Annotated[Path, typer.Option(help="Where the page, the gallery and the store are written.")] = Path(
        "onepeace-demo"
    ),
    model: Annotated[str, typer.Option(help="A shipped model's name, or an export folder.")] = "onepeace-tiny",
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Search a small gallery of pictures and sounds in every direction, and write a page to look at.

    \b
    Examples:
      onepeace demo
      onepeace demo --out somewhere --open
    """
    from .demo_table import print_report

    print_report(run_demo(out, model, open_browser))


def _must_be_free(out: Path) -> None:
    if not out.exists() or (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        return
    raise ValueError(f"{out} exists and was not written by `onepeace demo`: choose another place with --out")


def _make_free(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(
        f"Written by `onepeace demo`; its next run replaces {', '.join(PARTS)}.\n", encoding="utf-8"
    )
    for part in PARTS:
        if (out / part).is_dir():
            shutil.rmtree(out / part)
        else:
            (out / part).unlink(missing_ok=True)


def _items(exhibits: Sequence[GalleryItem], folder: Path) -> list[Item]:
    """The pictures and sounds, then their captions. `of` names what an item belongs to: itself, or the captioned."""
    from .catalog import Item

    media = [
        Item(
            exhibit.id,
            exhibit.modality,
            str(folder / exhibit.file),
            {"text": exhibit.caption, "concept": exhibit.concept, "of": exhibit.id, "licence": exhibit.licence},
        )
        for exhibit in exhibits
    ]
    captions = [
        Item(
            f"caption/{exhibit.id}",
            "text",
            f"{folder / 'gallery.jsonl'}#{line}",
            {"text": exhibit.caption, "concept": exhibit.concept, "of": exhibit.id},
        )
        for line, exhibit in enumerate(exhibits, start=1)
    ]
    return media + captions


def _embed(items: Sequence[Item], model: QueryModel) -> Any:
    """Unit rows (N, D) of the items."""
    import numpy as np

    from onepeace.progress import progress_bar

    from .engine import model_input

    rows = []
    with progress_bar(len(items), "embedding the gallery") as advance:
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            rows.append(model.encode([model_input(item) for item in some]))
            advance(len(some))
    return np.concatenate(rows)


def _neighbours(items: Sequence[Item], vectors: Any, searcher: Searcher) -> dict[str, dict[str, list[SearchHit]]]:
    found: dict[str, dict[str, list[SearchHit]]] = {item.id: {} for item in items}
    for modality in Counter(item.modality for item in items):
        hits_of_all = searcher.search_many(vectors, SHOWN + 1, {"modality": modality})
        for item, hits in zip(items, hits_of_all, strict=True):
            found[item.id][modality] = [hit for hit in hits if hit.item.id != item.id][:SHOWN]
    return found


def _evaluate(
    query: str,
    target: str,
    shown: Sequence[str],
    items: Sequence[Item],
    neighbours: dict[str, dict[str, list[SearchHit]]],
) -> DirectionReport:
    by_id = {item.id: item for item in items}
    about = Counter(item.metadata["concept"] for item in items if item.modality == target)
    queries = [
        item
        for item in items
        if item.modality == query
        # A caption looks for its own kind; a picture only for a sound where there is one to be found.
        and (by_id[item.metadata["of"]].modality == target if query == "text" else item.metadata["concept"] in about)
    ]
    if not queries:
        raise ValueError(f"the gallery has nothing to search with from {query} to {target}")

    def share(k: int, key: str) -> float:
        """The part of the queries with a right hit among the first k."""
        return mean(
            any(hit.item.metadata[key] == item.metadata[key] for hit in neighbours[item.id][target][:k])
            for item in queries
        )

    candidates = about.total()
    return DirectionReport(
        query=query,
        target=target,
        queries=len(queries),
        candidates=candidates,
        own={k: share(k, "of") for k in KS} if "text" in (query, target) else None,
        concept={k: share(k, "concept") for k in KS},
        chance={k: mean(chance(about[item.metadata["concept"]], candidates, k) for item in queries) for k in KS},
        examples=[Search((by_id[name],), neighbours[name][target]) for name in shown if name in by_id],
    )


def chance(right: int, candidates: int, k: int) -> float:
    """The chance that k of the candidates, drawn blindly, hold at least one of those that are right."""
    drawn = min(k, candidates)
    return 1 - comb(candidates - right, drawn) / comb(candidates, drawn)


def _mixes(items: Sequence[Item], searcher: Searcher) -> list[tuple[Search, Search, Search]]:
    import onepeace

    from .engine import model_input

    by_id = {item.id: item for item in items}
    found = []
    for name, words, target in MIXES:
        if name not in by_id:  # another gallery than ours
            continue
        item = by_id[name]
        queries: list[tuple[Item | str, ...]] = [(item,), (words,), (item, words)]
        inputs = [model_input(item), words, onepeace.Compose(model_input(item), words)]
        first, second, both = searcher.search_many(inputs, SHOWN, {"modality": target})
        found.append((Search(queries[0], first), Search(queries[1], second), Search(queries[2], both)))
    return found
