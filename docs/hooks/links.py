"""Links out of docs/ lead to the files of the repository on a forge; here they lead to copies inside the site."""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]+)\)")
COPIES = "repository"  # the folder of the site that they lie in


def _target(page: str, link: str) -> str | None:
    """Return the path in the repository that a page's link leads to, where that lies outside docs/."""
    path = normpath(f"docs/{dirname(page)}/{link}")
    return None if path.startswith("docs/") else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to."""
    for page in list(files.documentation_pages()):
        for _, link in LINK.findall(page.content_string):
            path = _target(page.src_uri, link)
            copy = f"{COPIES}/{path}.txt"  # a browser shows it, whatever it is
            if path is not None and (ROOT / path).is_file() and copy not in files.src_uris:
                files.append(File.generated(config, copy, content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the copies; one to a folder becomes its name."""

    def led(match: re.Match[str]) -> str:
        text, link = match.groups()
        path = _target(page.file.src_uri, link)
        if path is None:
            return match[0]
        if (ROOT / path).is_dir():
            return f"`{path}`"
        if not (ROOT / path).is_file():
            raise FileNotFoundError(f"{page.file.src_uri} links to {link}, which is not there")
        return f"[{text}]({relpath(f'{COPIES}/{path}.txt', dirname(page.file.src_uri) or os.curdir)})"

    return LINK.sub(led, markdown)
