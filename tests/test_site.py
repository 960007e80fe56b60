"""The documentation builds without a complaint, its links lead somewhere, and it asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Links(HTMLParser):
    """What a page links to and loads, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id":
                self.places.add(value)
            elif (tag, name) in LOADED:
                self.loads.append(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def led_to(page: Path, link: str) -> tuple[Path, str] | None:
    """The file and the place in it that a link leads to; None where it leads out of the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    return Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page, unquote(parts.fragment)


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    lost = []
    for page, found in pages.items():
        if page.name == "404.html":  # is shown at any address, so that its links are absolute
            continue
        for link in (*found.links, *found.loads):
            target = led_to(page, link)
            if target is None:
                continue
            path, place = target
            there = path.is_file() and (not place or path not in pages or place in pages[path].places)
            if not there:
                lost.append(f"{page.relative_to(site)} -> {link}")
    assert not lost


def test_every_page_can_be_reached_from_the_first(site: Path, pages: dict[Path, Links]) -> None:
    seen, waiting = {site / "index.html"}, deque([site / "index.html"])
    while waiting:
        page = waiting.popleft()
        for link in pages[page].links:
            target = led_to(page, link)
            if target and target[0] in pages and target[0] not in seen:
                seen.add(target[0])
                waiting.append(target[0])
    assert {path.name for path in pages.keys() - seen} == {"404.html"}


def test_no_other_host_is_asked_for_anything(site: Path, pages: dict[Path, Links]) -> None:
    for page, found in pages.items():
        assert not [link for link in found.loads if urlsplit(link).netloc], page
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_repositorys_own_pages_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_page_of_docs_is_in_the_navigation() -> None:
    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [name for one in (entry if isinstance(entry, list) else entry.values()) for name in files(one)]

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(files(yaml.safe_load(text)["nav"]))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written <= named
    assert named - written == {"reference/command-line.md", "reference/http.md", "reference/configs.md"}  # are made
