"""The page in a real browser, at a desk and on a phone.

ONEPEACE_SCREENSHOTS=docs also writes the pictures that the documentation shows, from a store of the whole gallery.
"""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from film_store import KEY as FILMS_KEY
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright
from running_service import TINY, Running, start, stop

import onepeace
from retrieval import AskedHit, Item, ModelTag, Searcher, Store, Stored
from retrieval.gallery import GALLERY
from retrieval.service.app import Service
from retrieval.service.config import ServiceConfig
from retrieval.service.security import ApiKeys

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM to a browser's path"
)

SCREENSHOTS = os.environ.get("ONEPEACE_SCREENSHOTS")
KEY = "a key of more than sixteen letters"
PAGE = 20  # hits
ASTRONAUT = GALLERY / "pictures" / "astronaut-orange-space.webp"
CAT = GALLERY / "pictures" / "face-tabby-cat.webp"
WALL = GALLERY / "pictures" / "wall-grey-bricks.webp"
DOG = GALLERY / "sounds" / "dog-barking-again.ogg"
ODD = "odd/100% ä & <b>b</b>?#.webp"  # an id that must be escaped in addresses, and never become markup
DEVICES: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@dataclass
class Shown:
    """A service whose page is shown, and the store that it serves."""

    url: str
    searcher: Searcher

    def ids(self, query: Any, top_k: int = PAGE, **wanted: Any) -> list[str]:
        return [hit.item.id for hit in self.searcher.search(query, top_k, **wanted)]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, embedder: onepeace.Embedder, exhibits: list[tuple[Item, Any]]
) -> Path:
    """A store with more hits than a page shows; all of the gallery where its pictures are to be taken."""
    some = [*exhibits[:28], *exhibits[-16:]]
    if SCREENSHOTS:
        captions = [pair for pair in exhibits if pair[0].modality == "text"]
        some = [pair for pair in exhibits if pair[0].modality != "text"] + captions[::12]
    items = [Item(ODD, "image", str(WALL), {}), *(item for item, _ in some)]
    vectors = embedder.encode([onepeace.Image(str(WALL)), *(source for _, source in some)])
    made = tmp_path_factory.mktemp("page") / "gallery"
    Store.create(made, items, vectors, model=ModelTag.of(embedder)).close()
    return made


@pytest.fixture(scope="module")
def shown(folder: Path, embedder: onepeace.Embedder) -> Iterator[Shown]:
    running, thread = start(Service(TINY, {"gallery": folder}, ServiceConfig()))
    store = Store.open(folder)
    yield Shown(running.url, Searcher(store, embedder))
    store.close()
    stop(running, thread)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *microphone]
        )
        yield started
        started.close()


@dataclass
class Problems:
    """What a page complains of, and what it asks of others than its own service."""

    origin: str
    found: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda said: said.type in ("error", "warning") and self.found.append(said.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("request", self._asked)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page's own doing: a search that another one follows
            self.found.append(f"{request.url}: {request.failure}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "blob:", "data:")):
            self.found.append(f"asks another server: {request.url}")

    def none_but(self, expected: str | None = None) -> None:
        """Fail on what was found, unless it matches `expected`."""
        assert [problem for problem in self.found if not (expected and re.search(expected, problem))] == []
        self.found.clear()


def new_page(browser: Browser, device: str = "desk") -> Page:
    context = browser.new_context(**DEVICES[device], reduced_motion="reduce")
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.add_init_script(COUNT_ADDRESSES)
    return page


@contextmanager
def visit(browser: Browser, url: str, device: str = "desk", expected: str | None = None) -> Iterator[Page]:
    """Open a page, and see in the end that nothing went wrong but what matches `expected`."""
    page = new_page(browser, device)
    problems = Problems(url.removesuffix("/docs"))
    problems.watch(page)
    page.goto(url)
    yield page
    problems.none_but(expected)
    page.context.close()


@pytest.fixture(scope="module")
def pages(browser: Browser, shown: Shown) -> dict[str, tuple[Page, Problems]]:
    """A page for each device; tests take turns with it."""
    made = {device: (new_page(browser, device), Problems(shown.url)) for device in DEVICES}
    for page, problems in made.values():
        problems.watch(page)
    return made


@pytest.fixture(params=list(DEVICES))
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(pages: dict[str, tuple[Page, Problems]], shown: Shown, device: str) -> Iterator[Page]:
    page, problems = pages[device]
    problems.found.clear()
    page.goto(shown.url)
    ready(page)
    yield page
    page.unroute_all()
    problems.none_but()


desk = pytest.mark.parametrize("device", ["desk"], indirect=True)
phone = pytest.mark.parametrize("device", ["phone"], indirect=True)


# Addresses of blobs that are held now.
COUNT_ADDRESSES = """
    globalThis.held = new Set();
    const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
    URL.createObjectURL = (blob) => { const made = make.call(URL, blob); held.add(made); return made; };
    URL.revokeObjectURL = (address) => { held.delete(address); drop.call(URL, address); };
"""

DROP = """({ selector, name, type, content }) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    const target = document.querySelector(selector);
    for (const kind of ["dragenter", "dragover", "drop"])
      target.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
}"""


def ready(page: Page) -> None:
    expect(page.locator("#about")).to_contain_text("This store holds")


def type_words(page: Page, words: str) -> None:
    page.fill("#words", words)
    page.press("#words", "Enter")


def drop(page: Page, selector: str, name: str, content: bytes) -> None:
    kind = mimetypes.guess_type(name)[0] or ""
    given = {"selector": selector, "name": name, "type": kind, "content": base64.b64encode(content).decode()}
    page.evaluate(DROP, given)


def filter_by(page: Page, name: str) -> None:
    page.locator(".kinds label", has_text=name).click()


def weigh(page: Page, part: str, weight: float) -> None:
    slider = page.get_by_label(f"Weight of {part}")
    slider.fill(str(weight))  # tells of the change as letting go of the thumb does
    slider.dispatch_event("change")


def until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait until a JavaScript condition holds; `wait_for_function` is kept from its work by the page's policy."""
    for _ in range(150):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never came true: {condition}")


def settled(page: Page) -> None:
    """Wait until a search's hits are there."""
    expect(page.locator("#panel-search .notice")).to_have_text(re.compile(r"(hit|answer)s?$|Nothing found"))


def ids(page: Page) -> list[str]:
    settled(page)
    return page.locator("#hits li").evaluate_all("(hits) => hits.map((hit) => hit.title)")


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def hits_are(page: Page, wanted: list[str]) -> None:
    until(page, "(wanted) => JSON.stringify([...hits.children].map((hit) => hit.title)) === wanted", as_json(wanted))
    settled(page)


def take_picture(page: Page, name: str) -> None:
    """Write a picture for the documentation, where that is asked for."""
    if SCREENSHOTS:
        page.wait_for_timeout(700)
        png = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        png.quantize(256, dither=Image.Dither.NONE).save(Path(SCREENSHOTS) / f"{name}.png", optimize=True)


# Searching


def test_words_find_what_the_searcher_finds_in_its_order_and_with_its_scores(
    page: Page, shown: Shown, device: str
) -> None:
    type_words(page, "a small animal")
    found = shown.searcher.search("a small animal", PAGE)
    hits_are(page, [hit.item.id for hit in found])
    assert page.locator("#hits .score").all_text_contents() == [f"{hit.score:.3f}" for hit in found]
    expect(page.locator("#modes")).to_be_hidden()  # there is nothing to ask
    if device == "phone":
        filter_by(page, "Pictures")
        hits_are(page, shown.ids("a small animal", where="modality=image"))
        take_picture(page, "page-phone")


@desk
def test_hits_are_shown_as_what_they_are(page: Page, shown: Shown) -> None:
    for kind, name in (("image", "Pictures"), ("audio", "Sounds"), ("text", "Texts")):
        page.fill("#words", "rain")
        filter_by(page, name)
        hits_are(page, shown.ids("rain", where=f"modality={kind}"))
        first = page.locator("#hits li").first
        if kind == "image":
            expect(first.locator("img")).to_have_js_property("complete", True)
            until(page, "document.querySelector('#hits img').naturalWidth > 16")
        elif kind == "audio":
            first.get_by_role("button", name=re.compile("^Play")).click()
            until(page, "document.querySelector('#hits audio')?.currentTime > 0")
        else:
            stored = {item.id: item.metadata["text"] for item in catalog(shown) if item.modality == "text"}
            expect(first.locator(".media p")).to_have_text(stored[ids(page)[0]])


def catalog(shown: Shown) -> list[Item]:
    current = shown.searcher.store.current
    return list(current.catalog.items(np.arange(len(current.vectors))))


@pytest.mark.parametrize(("field", "file"), [("#picture", ASTRONAUT), ("#sound", DOG)], ids=["picture", "sound"])
def test_a_chosen_file_is_searched_with(page: Page, shown: Shown, field: str, file: Path) -> None:
    page.set_input_files(field, file)
    wrap = onepeace.Image if field == "#picture" else onepeace.Audio
    hits_are(page, shown.ids(wrap(str(file))))
    expect(page.locator("#parts .name")).to_have_text([file.name])
    expect(page.locator("#parts input")).to_have_count(0)  # one part alone has no weight


@pytest.mark.parametrize("file", [CAT, DOG], ids=["picture", "sound"])
def test_a_dropped_file_is_searched_with(page: Page, shown: Shown, file: Path) -> None:
    drop(page, "#words" if file == CAT else "#hits", file.name, file.read_bytes())
    wrap = onepeace.Image if file == CAT else onepeace.Audio
    hits_are(page, shown.ids(wrap(str(file))))
    expect(page.locator("body")).not_to_have_class("over")


def test_a_recording_is_searched_with(page: Page, shown: Shown) -> None:
    page.click("#record")
    expect(page.locator("#record")).to_contain_text("Stop")
    page.wait_for_timeout(1200)
    with page.expect_request("**/v1/search") as asked:
        page.click("#record")
    sound = base64.b64decode(asked.value.post_data_json["query"]["content"][0]["audio"])
    samples, rate = soundfile.read(io.BytesIO(sound))
    assert 0.8 < len(samples) / rate < 10
    assert np.abs(samples).max() > 0.01  # Chromium's microphone beeps every second
    hits_are(page, shown.ids(onepeace.Audio(sound)))
    expect(page.locator("#record")).to_have_text("Record")


def test_a_mix_of_words_picture_and_sound_is_weighed(page: Page, shown: Shown) -> None:
    page.set_input_files("#picture", CAT)
    settled(page)
    page.set_input_files("#sound", DOG)
    settled(page)
    type_words(page, "an animal at night")
    picture, sound = onepeace.Image(str(CAT)), onepeace.Audio(str(DOG))
    hits_are(page, shown.ids(onepeace.Compose("an animal at night", picture, sound)))
    weigh(page, "an animal at night", 0.4)
    weigh(page, CAT.name, -0.6)
    mix = onepeace.Compose("an animal at night", picture, sound, weights=[0.4, -0.6, 1])
    hits_are(page, shown.ids(mix))
    page.get_by_label(f"Leave out {CAT.name}").click()
    hits_are(page, shown.ids(onepeace.Compose("an animal at night", sound, weights=[0.4, 1])))


def test_a_hit_is_searched_with_and_mixed_with_words(page: Page, shown: Shown) -> None:
    type_words(page, "a dog")
    first = ids(page)[0]
    page.locator("#hits li").first.click(position={"x": 30, "y": 150})  # anywhere on the card
    hits_are(page, [hit.item.id for hit in shown.searcher.search_like(first, PAGE)])
    page.fill("#words", "water")
    weigh(page, "water", 0.5)
    weigh(page, first, 0.8)
    hits_are(page, shown.ids(onepeace.Compose(Stored(first), "water", weights=[0.8, 0.5])))


@desk
def test_going_back_shows_the_query_before(page: Page, shown: Shown) -> None:
    type_words(page, "a dog")
    before = ids(page)
    page.locator("#hits .similar").nth(1).click()
    hits_are(page, [hit.item.id for hit in shown.searcher.search_like(before[1], PAGE)])
    page.go_back()
    hits_are(page, before)
    expect(page.locator("#words")).to_have_value("a dog")
    page.go_forward()
    expect(page.locator("#parts .name")).to_have_text([before[1]])


@desk
def test_kinds_are_filtered(page: Page, shown: Shown) -> None:
    type_words(page, "a bird")
    for name, where in (("Sounds", "modality=audio"), ("Pictures", "modality=image"), ("Texts", "modality=text")):
        filter_by(page, name)
        hits_are(page, shown.ids("a bird", where=where))
    filter_by(page, "All")
    hits_are(page, shown.ids("a bird"))


@desk
def test_more_hits_come_until_there_are_no_more(page: Page, shown: Shown) -> None:
    type_words(page, "music")
    every = shown.ids("music", top_k=1000)
    for count in range(PAGE, len(every), PAGE):
        hits_are(page, every[:count])
        page.click("#more")
    hits_are(page, every)
    expect(page.locator("#more")).to_be_hidden()


@desk
def test_of_two_quick_searches_the_last_is_shown(page: Page, shown: Shown) -> None:
    held: list[Route] = []
    page.route("**/v1/search", lambda route: held.append(route) if not held else route.continue_())
    type_words(page, "a dog")
    type_words(page, "an instrument")
    hits_are(page, shown.ids("an instrument"))
    held[0].continue_()
    page.wait_for_timeout(300)
    hits_are(page, shown.ids("an instrument"))


@desk
def test_escape_clears_the_query_and_lets_go_of_all_pictures(page: Page, shown: Shown) -> None:
    page.set_input_files("#picture", CAT)
    filter_by(page, "Pictures")
    hits_are(page, shown.ids(onepeace.Image(str(CAT)), where="modality=image"))
    until(page, "held.size > 3")
    page.press("#words", "Escape")
    expect(page.locator("#hits li")).to_have_count(0)
    expect(page.locator("#parts li")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()
    page.wait_for_timeout(200)
    assert page.evaluate("held.size") == 0


@phone
def test_pictures_come_as_they_are_scrolled_to(page: Page) -> None:
    loaded = "document.querySelector('#hits li:{}-child img').naturalWidth > 16"
    filter_by(page, "Pictures")
    type_words(page, "a drawing")
    settled(page)
    until(page, loaded.format("first"))
    page.wait_for_timeout(300)
    assert not page.evaluate(loaded.format("last"))
    page.locator("#hits li").last.scroll_into_view_if_needed()
    until(page, loaded.format("last"))


@desk
def test_an_odd_id_is_shown_as_it_is_with_its_picture(page: Page) -> None:
    page.set_input_files("#picture", WALL)
    settled(page)
    odd = page.locator("#hits li").filter(has=page.get_by_label(f"Similar to {ODD}", exact=True))
    expect(odd.locator(".id")).to_have_text(ODD.rpartition("/")[2])
    until(
        page,
        "title => [...document.querySelectorAll('#hits li')]"
        ".some((li) => li.title === title && li.querySelector('img').naturalWidth > 16)",
        ODD,
    )
    odd.locator(".similar").click()
    expect(page.locator("#parts .name")).to_have_text([ODD])
    settled(page)


# Parts of files


@pytest.fixture(scope="module")
def films(film_service: Running, embedder: onepeace.Embedder) -> Iterator[Shown]:
    with Store.open(film_service.service.indexes.all["films"].store.folder) as store:
        yield Shown(film_service.url, Searcher(store, embedder))


def test_parts_of_files_are_shown_at_their_places(browser: Browser, films: Shown, device: str) -> None:
    with visit(browser, films.url, device, "status of 401") as page:
        enter_key(page, FILMS_KEY)
        ready(page)
        filter_by(page, "Pictures")
        type_words(page, "a violin")
        hits_are(page, films.ids("a violin", where="modality=image"))
        deck = page.locator("#hits li[title='films/deck.pdf#page=3']")
        clip = page.locator("#hits li[title='films/a clip.mp4#t=4.0']")
        expect(clip.locator(".id")).to_have_text("a clip.mp4")
        expect(clip.locator(".place")).to_have_text("0:04 to 0:05")
        until(page, "[...document.querySelectorAll('#hits img')].slice(0, 2).every((one) => one.naturalWidth > 16)")
        link = deck.get_by_role("link", name="Open deck.pdf at page 3")
        expect(link).to_have_attribute("href", re.compile(r"#page=3$"))
        opened = httpx.get(films.url + str(link.get_attribute("href")))
        assert opened.headers["content-type"] == "application/pdf"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert Axe().run(page).response["violations"] == []
        page.emulate_media(color_scheme="light")
        assert device != "phone" or page.evaluate(SMALL) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        take_picture(page, f"page-films-{device}")
        clip.get_by_role("button", name="Play a clip.mp4 from 0:04").click()
        until(page, "document.querySelector('#hits video')?.currentTime > 4")  # and not from the beginning
        assert page.evaluate("document.querySelector('#hits video').videoWidth") == 256
        page.get_by_role("button", name="Each file once").click()
        hits_are(page, films.ids("a violin", where="modality=image", group_by="uri"))
        filter_by(page, "Sounds")
        hits_are(page, films.ids("a violin", where="modality=audio", group_by="uri"))
        page.get_by_role("button", name="Each file once").click()
        hits_are(page, films.ids("a violin", where="modality=audio"))
        page.get_by_role("button", name="Play rain.wav from 0:10").click()
        until(page, "document.querySelector('#hits audio')?.currentTime > 10")


def test_files_are_asked_and_play_from_where_they_answer(browser: Browser, films: Shown, device: str) -> None:
    question = "what comes after the lion?"
    wanted = films.searcher.ask(question)
    notice = "#panel-search .notice"
    with visit(browser, films.url, device, "status of 401") as page:
        enter_key(page, FILMS_KEY)
        ready(page)
        page.get_by_role("radio", name="Search").press("ArrowRight")
        expect(page.get_by_role("radio", name="Ask")).to_be_checked()
        expect(page.get_by_role("group", name="Show")).to_be_hidden()
        page.get_by_role("searchbox", name="What to ask").fill(question)
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(notice)).to_have_text(f"{len(wanted)} answers")
        assert ids(page) == [hit.item.id for hit in wanted]
        sure = [f"{100 * hit.probability:.0f} % sure" for hit in wanted if isinstance(hit, AskedHit)]
        assert page.locator("#hits .sure").all_text_contents() == sure
        until(page, "[...document.querySelectorAll('#hits img')].every((one) => one.naturalWidth > 16)")
        assert Axe().run(page).response["violations"] == []
        assert device != "phone" or page.evaluate(SMALL) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        take_picture(page, f"page-ask-{device}")
        frame = page.locator("#hits li[title='films/a clip.mp4#t=2.0']")
        frame.get_by_role("button", name="Play a clip.mp4 from 0:02").click()
        until(page, "document.querySelector('#hits video')?.currentTime > 2")
        frame.locator(".similar").focus()
        page.keyboard.press("Enter")
        hits_are(
            page, [hit.item.id for hit in films.searcher.search_like("films/a clip.mp4#t=2.0", PAGE, copies=False)]
        )
        expect(page.get_by_role("radio", name="Search")).to_be_checked()
        page.go_back()
        hits_are(page, [hit.item.id for hit in wanted])
        drop(page, "main", CAT.name, CAT.read_bytes())  # a picture is searched with
        expect(page.get_by_role("radio", name="Search")).to_be_checked()
        hits_are(page, films.ids(onepeace.Compose(question, onepeace.Image(str(CAT))), copies=False))


# Classification


@pytest.mark.parametrize("file", [CAT, DOG], ids=["picture", "sound"])
def test_classification_agrees_with_the_classifier(page: Page, embedder: onepeace.Embedder, file: Path) -> None:
    labels = ["a cat", "a dog", "a car", "the sea", "a violin"]
    page.click("#tab-classify")
    if file == CAT:
        page.set_input_files("#classified", file)
    else:
        drop(page, "#preview", file.name, file.read_bytes())
    page.fill("#labels", ", ".join(labels) + ", a dog,")
    page.fill("#template", "this is {}")
    page.click("#classify .primary")
    wrap = onepeace.Image if file == CAT else onepeace.Audio
    (told,) = onepeace.ZeroShotClassifier(embedder, labels, ["this is {}"]).predict([wrap(str(file))])
    expect(page.locator("#panel-classify .notice")).to_have_text(f"Likeliest: {told.label}")
    shares = page.locator("#scores .share").all_text_contents()
    written = dict(zip(page.locator("#scores .label").all_text_contents(), shares, strict=True))
    ranked = sorted(told.probabilities.items(), key=lambda pair: -pair[1])
    assert list(written) == [label for label, _ in ranked]
    for label, share in ranked:
        assert float(written[label].removesuffix(" %")) == pytest.approx(100 * share, abs=0.051)


@desk
def test_a_recording_is_classified(page: Page) -> None:
    page.click("#tab-classify")
    page.click("#record-classified")
    expect(page.locator("#record-classified")).to_contain_text("Stop")
    page.wait_for_timeout(600)
    page.click("#record-classified")
    expect(page.locator("#preview figcaption")).to_have_text("recording.wav")
    page.click("#classify .primary")
    expect(page.locator("#scores li")).to_have_count(6)


@desk
def test_what_cannot_be_classified_is_said(page: Page) -> None:
    notice = page.locator("#panel-classify .notice")
    page.click("#tab-classify")
    page.click("#classify .primary")
    expect(notice).to_have_text("Choose a picture or a sound first.")
    page.set_input_files("#classified", CAT)
    page.fill("#labels", "cat")
    page.click("#classify .primary")
    expect(notice).to_have_text("Write two labels or more.")
    page.fill("#labels", "cat, dog")
    page.fill("#template", "an animal")
    page.click("#classify .primary")
    expect(notice).to_contain_text("needs {}")


# The map


@dataclass
class Dot:
    """An item of the map: where it lies on the canvas, and the colour there."""

    id: str
    text: str
    modality: str
    x: float
    y: float


def open_map(page: Page, apart: float = 16) -> list[Dot]:
    """Open the map, and return its items that are so many pixels from others, by the places that the service tells."""
    with page.expect_response("**/map") as answer:
        page.click("#tab-map")
    points = answer.value.json()["points"]
    expect(page.locator("#panel-map .notice")).to_contain_text("items in the two directions")
    width, height = page.evaluate(
        "[document.getElementById('map').clientWidth, document.getElementById('map').clientHeight]"
    )
    places = np.array([[point["x"], -point["y"]] for point in points])
    places = (places - places.min(axis=0)) / np.ptp(places, axis=0) * [width - 48, height - 48] + 24
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e6 * np.eye(len(places))
    alone = np.flatnonzero(distances.min(axis=1) >= apart)
    return [
        Dot(points[n]["id"], points[n]["text"] or points[n]["id"], points[n]["modality"], *places[n].tolist())
        for n in alone
    ]


def test_the_map_shows_each_item_in_the_colour_of_its_modality(page: Page) -> None:
    dots = open_map(page)
    drawn = Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")
    seen: dict[str, set[Any]] = {}
    for dot in dots:
        seen.setdefault(dot.modality, set()).add(drawn.getpixel((round(dot.x), round(dot.y))))
    assert set(seen) == {"image", "audio", "text"}
    assert [len(colours) for colours in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3


def inside(page: Page, inner: str, outer: str) -> bool:
    a, b = page.locator(inner).bounding_box(), page.locator(outer).bounding_box()
    assert a is not None
    assert b is not None
    fits_across = b["x"] <= a["x"] and a["x"] + a["width"] <= b["x"] + b["width"]
    return fits_across and b["y"] <= a["y"] and a["y"] + a["height"] <= b["y"] + b["height"]


@desk
def test_pointing_at_the_map_shows_an_item_and_a_click_searches_with_it(page: Page, shown: Shown) -> None:
    dots = open_map(page)
    corners = [min(dots, key=lambda dot: sx * dot.x + sy * dot.y) for sx in (1, -1) for sy in (1, -1)]
    for dot in [*corners, next(dot for dot in dots if dot.modality == "image")]:
        page.locator("#map").hover(position={"x": dot.x + 2, "y": dot.y - 2})
        expect(page.locator("#map-tip > span")).to_have_text(dot.text)
        assert inside(page, "#map-tip", "#map-frame")
    until(page, "document.querySelector('#map-tip img').naturalWidth > 16")
    take_picture(page, "page-map")
    page.locator("#map").click(position={"x": dot.x, "y": dot.y})
    hits_are(page, [hit.item.id for hit in shown.searcher.search_like(dot.id, PAGE)])
    page.go_back()
    expect(page.locator("#panel-map")).to_be_visible()
    page.hover("h1")
    expect(page.locator("#map-tip")).to_be_hidden()


@phone
def test_a_first_touch_on_the_map_shows_an_item_and_a_second_searches_with_it(page: Page, shown: Shown) -> None:
    dot = open_map(page)[0]
    page.locator("#map").tap(position={"x": dot.x, "y": dot.y})
    expect(page.locator("#map-tip > span")).to_have_text(dot.text)
    assert inside(page, "#map-tip", "#map-frame")
    page.locator("#map").tap(position={"x": dot.x, "y": dot.y})
    hits_are(page, [hit.item.id for hit in shown.searcher.search_like(dot.id, PAGE)])


def test_the_map_is_gone_through_by_keys(page: Page) -> None:
    places = {dot.text: dot for dot in open_map(page, apart=0)}
    page.focus("#map")
    for key, axis, way in (("Right", "x", 1), ("Left", "x", -1), ("Down", "y", 1), ("Up", "y", -1)):
        page.keyboard.press(f"Arrow{key}")  # the first one chooses the item in the middle
        before = places[page.locator("#map-tip > span").inner_text()]
        page.keyboard.press(f"Arrow{key}")
        after = places[page.locator("#map-tip > span").inner_text()]
        assert way * (getattr(after, axis) - getattr(before, axis)) > 0
    page.keyboard.press("Escape")
    expect(page.locator("#map-tip")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator("#tab-search")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#parts li")).to_have_count(1)


# The page as such


@desk
def test_tabs_are_gone_through_by_keys(page: Page) -> None:
    page.focus("#tab-search")
    for key, name in (
        ("ArrowRight", "classify"),
        ("ArrowRight", "map"),
        ("ArrowRight", "search"),
        ("ArrowLeft", "map"),
        ("Home", "search"),
        ("End", "map"),
    ):
        page.keyboard.press(key)
        expect(page.locator(f"#tab-{name}")).to_be_focused()
        expect(page.locator("[aria-selected=true]")).to_have_id(f"tab-{name}")
        expect(page.locator("[role=tabpanel]:visible")).to_have_id(f"panel-{name}")
    page.reload()
    expect(page.locator("#panel-map")).to_be_visible()


def fill_every_tab(page: Page) -> Iterator[str]:
    """Bring each tab into a state with all its parts, one after the other."""
    page.set_input_files("#picture", CAT)
    settled(page)
    page.set_input_files("#sound", DOG)
    settled(page)
    type_words(page, "a pet")
    settled(page)
    yield "search"
    page.click("#tab-classify")
    page.set_input_files("#classified", CAT)
    page.click("#classify .primary")
    expect(page.locator("#scores li")).to_have_count(6)
    yield "classify"
    open_map(page)
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    yield "map"


SMALL = """() => [...document.querySelectorAll("a, button, select, textarea, label.button, .kinds label, input")]
    .filter((control) => control.checkVisibility() && !control.classList.contains("hidden"))
    .filter((control) => !control.classList.contains("similar"))  // the whole card is this button
    .map((control) => [control.outerHTML, control.getBoundingClientRect()])
    .filter(([, box]) => box.height < 44 || box.width < 44)
    .map(([markup, box]) => `${markup} ${box.width} x ${box.height}`)
"""


def test_everybody_can_use_the_page(page: Page, device: str) -> None:
    for tab in fill_every_tab(page):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page).response["violations"]
            told = [f"{one['id']}: {one['nodes'][0]['target']} {one['help']}" for one in found]
            assert told == [], f"{tab}, {scheme}"
        page.emulate_media(color_scheme="light")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab  # nothing sticks out
        if device == "phone":
            assert page.evaluate(SMALL) == [], tab  # a finger can hit it
        elif tab != "map":
            take_picture(page, f"page-{tab}")


def test_the_first_load_is_light(browser: Browser, shown: Shown) -> None:
    context = browser.new_context()
    page = context.new_page()
    sizes: list[float] = []
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(shown.url, wait_until="networkidle")
    ready(page)
    context.close()
    assert len(sizes) > 5
    assert 10_000 < sum(sizes) < 300_000
    print(f"first load: {len(sizes)} requests, {sum(sizes) / 1000:.0f} kB")


def test_the_interface_is_shown_with_every_operation(browser: Browser, shown: Shown) -> None:
    paths = httpx.get(f"{shown.url}/openapi.json").json()["paths"]
    with visit(browser, f"{shown.url}/docs") as page:
        expect(page.locator(".opblock")).to_have_count(sum(len(operations) for operations in paths.values()))
        page.locator(".opblock", has_text="/health/live").locator("button").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")


# What goes wrong


def test_a_file_that_cannot_be_read_is_named(browser: Browser, shown: Shown) -> None:
    with visit(browser, shown.url, expected="status of 400") as page:
        ready(page)
        notice = page.locator("#panel-search .notice")
        drop(page, "main", "notes.pdf", b"%PDF-1.4")
        expect(notice).to_have_text("notes.pdf is neither a picture nor a sound.")
        drop(page, "main", "torn.png", b"\x89PNG torn")
        expect(notice).to_have_text("torn.png cannot be read: it is damaged, or of an unknown format.")
        expect(page.locator("#parts img")).to_have_count(0)  # rather a letter than a broken picture
        page.get_by_label("Leave out torn.png").click()
        expect(notice).to_have_text("")
        type_words(page, "a dog")
        hits_are(page, shown.ids("a dog"))


def test_parts_that_cancel_out_are_explained(browser: Browser, shown: Shown) -> None:
    with visit(browser, shown.url, expected="status of 400") as page:
        ready(page)
        page.set_input_files("#picture", [CAT, CAT])
        settled(page)
        slider = page.get_by_label(f"Weight of {CAT.name}").first
        slider.fill("-1")
        slider.dispatch_event("change")
        expect(page.locator("#panel-search .notice")).to_contain_text("cancel out")


def test_a_busy_service_is_asked_again_on_a_click(browser: Browser, shown: Shown) -> None:
    with visit(browser, shown.url, expected="status of 429") as page:
        ready(page)
        page.route(
            "**/v1/search", lambda route: route.fulfill(status=429, json={"error": {"message": "busy"}}), times=1
        )
        type_words(page, "a dog")
        expect(page.locator("#panel-search .notice span")).to_have_text("The service is busy just now.")
        page.get_by_role("button", name="Try again").click()
        hits_are(page, shown.ids("a dog"))


def test_keys_are_asked_for_and_a_stopped_service_is_told_of(browser: Browser, folder: Path) -> None:
    running, thread = start(Service(TINY, {"gallery": folder}, ServiceConfig()), ApiKeys([KEY]))
    try:
        with visit(browser, running.url, "phone", "status of 401|ERR_CONNECTION_REFUSED") as page:
            enter_key(page, "not the right key at all")
            expect(page.locator("#key-note")).to_have_text("This key is not known here.")
            assert Axe().run(page).response["violations"] == []
            enter_key(page, KEY)
            ready(page)
            expect(page.locator("#key-form")).to_be_hidden()
            filter_by(page, "Pictures")
            type_words(page, "a cat")
            settled(page)
            until(page, "document.querySelector('#hits img').naturalWidth > 16")  # media need the key too
            page.click("text=API")
            expect(page.locator(".opblock").first).to_be_visible()
            page.go_back()
            ready(page)
            stop(running, thread)
            type_words(page, "a cat")
            notice = page.locator("#panel-search .notice")
            expect(notice.locator("span")).to_have_text("The service does not answer. Is it running?")
            expect(notice.get_by_role("button")).to_have_text("Try again")
            page.click("#tab-map")
            expect(page.locator("#panel-map .notice span")).to_contain_text("does not answer")
    finally:
        if thread.is_alive():
            stop(running, thread)


def enter_key(page: Page, key: str) -> None:
    expect(page.locator("#key-form")).to_be_visible()
    page.get_by_label("This service asks for an API key").fill(key)
    page.get_by_role("button", name="Use it").click()
