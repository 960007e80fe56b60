"""The page of all commands, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

INTRODUCTION = """# Command line

Made from the commands; `onepeace COMMAND --help` says the same. Exit codes: 0 when all went well, 1 for an error, told
in one line, 2 for options that do not exist or have no such form, 3 when some files could not be read, or a store has
another file or content in their place. `--debug` before a command shows an error's traceback.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    from retrieval.cli import app

    root = typer.main.get_command(app)
    text = INTRODUCTION + "".join(_sections(root, "onepeace"))
    files.append(File.generated(config, "reference/command-line.md", content=text))
    return files


def _sections(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    if hasattr(command, "commands"):
        for child in command.list_commands(context):
            yield from _sections(command.get_command(context, child), f"{name} {child}")
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n## {name}\n\n```text\n{name} {usage}\n```\n\n"
    yield _prose(command.help or "") + "\n" + _prose(command.epilog or "")
    rows = [record for param in command.params if (record := _record(param, context))]
    if rows:
        yield "\n| argument, option | |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def _record(param: Any, context: Any) -> str | None:
    if param.name == "help" or getattr(param, "hidden", False):
        return None
    name, text = param.get_help_record(context) or ("", "")
    text = re.sub(r"\s+", " ", text).replace("|", "\\|")
    return f"| `{name}` | {text} |".replace("`|", "`\\|")


def _prose(text: str) -> str:
    """Paragraphs as they are; those that click is told not to wrap (\\b) are lists of commands or terms: code."""
    parts = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b"):
            title, *lines = part.removeprefix("\b").strip("\n").split("\n")
            if lines and not lines[-1].startswith(" "):  # what comes after a list
                lines, rest = _until_left(lines)
            else:
                rest = []
            kind = "sh" if title.startswith("Example") else "text"
            parts.append(f"{title}\n\n```{kind}\n{inspect.cleandoc(chr(10).join(lines))}\n```")
            parts += ["\n".join(rest)] if rest else []
        elif part.startswith("Example: "):
            parts.append(f"```sh\n{part.removeprefix('Example: ')}\n```")
        elif part:
            parts.append(part)
    return "\n\n".join(parts) + "\n"


def _until_left(lines: list[str]) -> tuple[list[str], list[str]]:
    place = next((n for n, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return lines[:place], lines[place:]
