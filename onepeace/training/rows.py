"""Rows of a manifest that train or are retrieved together: what is kept, which texts fit it, what matches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encoders.modality import Modality
from onepeace.manifest import ManifestError, read_manifest
from onepeace.training.texts import fill

log = logging.getLogger(__name__)

Values = str | int | list[str] | list[int]

ALL_LANGUAGES = "all"
SHOWN = 10  # values of a column that an error lists


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Rows of a manifest that train together, and the texts they are paired with.

    A row's texts are captions, its own in the manifest, and prompts, the templates filled with its label. A step draws
    one of them, each as likely; `caption_dropout` and `word_dropout` then change captions by chance (keywords instead
    of sentences, as LAION-CLAP's training mixes them: Wu et al., 2023, arXiv:2211.06687, section 3.2). With a teacher
    the vector of the whole caption stays the target.
    """

    source: str | None = None  # value of the manifest's column `source`; None: every row
    manifest: Path | None = None  # another than the data's own
    columns: Mapping[str, str] = field(default_factory=dict)  # our name of a column -> the manifest's own
    where: Mapping[str, Values] = field(default_factory=dict)  # column -> value or values that are kept
    exclude: Mapping[str, Values] = field(default_factory=dict)  # column -> value or values that are left out
    weight: float = 1.0  # share of the stream's batch, relative to its other sources
    # Whose texts of the column `texts` are used; [all]: of every language. The column `text` is always used.
    languages: tuple[str, ...] = ("en",)
    own_texts: int | None = None  # how many of a row's own texts; None: all
    templates: tuple[str, ...] = ()  # further texts: "{}" stands for the row's label
    articles: bool = False  # fill each template with "a" or "an" in front of the label too
    caption_dropout: float = 0.0  # how often a drawn caption makes way for a prompt, in rows that have both
    word_dropout: float = 0.0  # share of the words left out of a drawn caption; at least one stays, prompts stay whole
    positives: str = "id"  # column whose equal values make rows and texts match: id, label, ...
    # 0: rows are drawn as they come; 1: every label equally often; between: n rows of a label weigh n^(1 - balance).
    balance: float = 0.0
    views: int = 1  # cached views: the plain one and altered ones
    # The longest text of a row that is used, in characters: lists of keywords run long.
    max_characters: int = 220

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.weight <= 0.0:
            raise ValueError(f"sources.weight must be positive, got {self.weight}")
        if self.views < 1:
            raise ValueError(f"sources.views must be at least 1, got {self.views}")
        if unfilled := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"sources.templates need {{}} for the label, got {unfilled[0]!r}")
        for name in ("caption_dropout", "balance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"sources.{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.word_dropout < 1.0:
            raise ValueError(f"sources.word_dropout must be in [0, 1), got {self.word_dropout}")
        if self.caption_dropout and not self.templates:
            raise ValueError("sources.caption_dropout puts prompts in place of captions: set sources.templates")

    @property
    def name(self) -> str:
        """Return what logs and caches call it."""
        return self.source or (self.manifest.stem if self.manifest else "all")


@dataclass(frozen=True)
class Row:
    """One medium and the texts that fit it."""

    id: str
    media: str  # `SHARD.tar/MEMBER` or a path, below the manifest's folder
    concept: str  # rows and texts of one concept match
    texts: tuple[str, ...]  # captions, then prompts
    licence: str = ""
    label: str = ""
    captions: int = 0  # how many of the texts are its own
    several_media: bool = False  # the manifest's row has a medium of another modality too, or refers to one


def load_rows(config: SourceConfig, modality: Modality, manifest: Path) -> list[Row]:
    """Return the rows of a source that have the modality and a text.

    Raises:
        ManifestError: an unreadable manifest, a column that is missing or holds something else, an id that two rows
            share, no row is left, or none with a value that `where` asks for.
    """
    path = config.manifest or manifest
    table = _table(config, modality, path)
    rows: dict[str, Row] = {}
    languages: set[str] = set()
    wordless: list[str] = []  # rows with a medium whose texts are all left out
    found: dict[str, set[Any]] = {name: set() for name in config.where}
    for number, cells in enumerate(table):
        wanted = config.source is None or cells["source"] == config.source
        wanted = wanted and all(cells[name] in _listed(values) for name, values in config.where.items())
        if not wanted or any(cells[name] in _listed(values) for name, values in config.exclude.items()):
            continue
        name = str(cells.get("id") or f"{path.stem}/{number}")
        try:
            row = _row(name, cells, modality, config)
        except (TypeError, KeyError, AttributeError) as error:
            raise ManifestError(
                f"{path}: row {name} must have a path in {modality} and text, or a list of {{lang, text}} in texts, "
                f"got {cells[modality]!r:.80} and {cells.get('texts') or cells.get('text')!r:.80}"
            ) from error
        languages |= {text["lang"] for text in cells.get("texts") or () if text.get("lang")}
        if row is None:
            wordless += [name] if cells[modality] and _text(cells.get("text")).strip() else []
            continue
        if name in rows:
            raise ManifestError(f"{path}: two rows have the id {name}; give each its own, or leave the column out")
        rows[name] = row
        for column in found:
            found[column].add(cells[column])
    for column, values in config.where.items():
        if absent := [value for value in _listed(values) if value not in found[column]]:
            held = dict.fromkeys(repr(cells[column]) for cells in table if config.source in (None, cells.get("source")))
            raise ManifestError(
                f"{path}: no row of source {config.name} with {modality} and text has {column} "
                f"{', '.join(map(repr, absent))}; the column holds {_shortened(list(held))}"
            )
    if languages and (absent := sorted(set(config.languages) - languages - {ALL_LANGUAGES})):
        log.warning(
            "%s: source %s has no text in %s, only in %s",
            path,
            config.name,
            ", ".join(absent),
            _shortened(sorted(languages)),
        )
    if wordless:
        log.warning(
            "%s: %d rows of source %s have %s but a text of one letter, or too long a one, and are left out: %s",
            path,
            len(wordless),
            config.name,
            modality,
            _shortened(wordless),
        )
    if not rows:
        raise ManifestError(f"{path}: no row of source {config.name} has {modality} and text")
    return list(rows.values())


def _table(config: SourceConfig, modality: Modality, path: Path) -> list[dict[str, Any]]:
    """Return a manifest's rows by our names of the columns, of which none that the config needs is missing."""
    table = read_manifest(path)
    if not table:
        raise ManifestError(f"{path} has no rows")
    theirs = set(table[0])
    needed = {str(modality), *config.where, *config.exclude}
    needed |= {"source"} if config.source else set()
    needed |= {config.positives} if config.positives != "id" else set()
    needed |= {"label"} if config.templates or config.balance else set()
    if missing := sorted((needed - set(config.columns) | set(config.columns.values())) - theirs):
        raise ManifestError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(sorted(theirs))}")
    if not config.templates and not {"text", "texts"} & (theirs | set(config.columns)):
        raise ManifestError(
            f"{path} lacks a column text or texts; it has {', '.join(sorted(theirs))}: name the one that holds the "
            "captions in sources.columns, or set sources.templates"
        )
    return [{**cells, **{ours: cells[name] for ours, name in config.columns.items()}} for cells in table]


def _row(name: str, cells: Mapping[str, Any], modality: Modality, config: SourceConfig) -> Row | None:
    """Return a row, or None where it lacks the modality or a text."""
    label = _text(cells.get("label"))
    captions, prompts = _texts(cells, label, config)
    if not cells[modality] or not captions + prompts:
        return None
    if not isinstance(cells[modality], str):
        raise TypeError("no path")
    concept = name if config.positives == "id" else (_text(cells[config.positives]) or name).casefold()
    licence = str(cells.get("licence") or "")
    others = {*Modality, "image_ref"} - {modality, Modality.TEXT}
    several = any(cells.get(other) for other in others)
    return Row(name, cells[modality], concept, captions + prompts, licence, label, len(captions), several)


def _texts(cells: Mapping[str, Any], label: str, config: SourceConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a row's captions, and the prompts with its label that are not among them."""
    every = ALL_LANGUAGES in config.languages
    own = [text] if (text := _text(cells.get("text"))) else []
    own += [
        text["text"]
        for text in cells.get("texts") or ()
        if text["text"] and (every or text["lang"] in config.languages)
    ]
    captions = _cleaned(own[: config.own_texts], config.max_characters)
    prompts = _cleaned(fill(config.templates, label, config.articles) if label else [], config.max_characters)
    return captions, tuple(prompt for prompt in prompts if prompt not in captions)


def _cleaned(texts: Sequence[str], longest: int) -> tuple[str, ...]:
    """Return the texts that are neither empty, too long nor a lone letter, each once; one sign may be a word."""
    spaced = (" ".join(text.split()) for text in texts)
    return tuple(dict.fromkeys(t for t in spaced if t and len(t) <= longest and (len(t) > 1 or not t.isascii())))


def _text(cell: Any) -> str:
    """Return a cell as text; labels may be numbers."""
    return "" if cell is None else str(cell)


def _listed(values: Values) -> Sequence[Any]:
    return values if isinstance(values, list) else [values]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
